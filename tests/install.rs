//! `scripts/install`, and what the command says of itself for man(1) and the shell.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Sandbox, outcome, rrun_binary};

fn verbs(sandbox: &Sandbox) -> Vec<String> {
    let help = sandbox.rrun(&["--help"]).ok().stdout;
    let list = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned);
    names.filter(|name| name != "help").collect()
}

#[test]
fn one_command_installs_everything() {
    let sandbox = Sandbox::new();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut install = Command::new(repository.join("scripts/install"));
    install.env("DESTDIR", sandbox.path()).env("PREFIX", "/usr").env("RRUN", rrun_binary());
    outcome::spawn(&mut install).wait().ok();
    let usr = sandbox.join("usr");
    let version = outcome::spawn(Command::new(usr.join("bin/rrun")).arg("--version")).wait().ok();
    assert!(version.stdout.starts_with("rrun version "), "{}", version.stdout);
    let verbs = verbs(&sandbox);
    assert!(verbs.len() > 14, "{verbs:?}");
    let pages = usr.join("share/man/man1");
    assert!(fs::read_to_string(pages.join("rrun.1")).unwrap().contains("rrun\\-create(1)"));
    for verb in &verbs {
        let page = fs::read_to_string(pages.join(format!("rrun-{verb}.1"))).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(".SH OPTIONS"), "{verb}: {page}");
    }
    let create = fs::read_to_string(pages.join("rrun-create.1")).unwrap();
    assert!(create.contains("pid\\-file"), "{create}");
    for (shell, file) in [
        ("bash", "bash-completion/completions/rrun"),
        ("zsh", "zsh/site-functions/_rrun"),
        ("fish", "fish/vendor_completions.d/rrun.fish"),
    ] {
        let script = fs::read_to_string(usr.join("share").join(file)).unwrap();
        assert!(script.contains("checkpoint") && script.contains("console-socket"), "{shell}");
    }
}

/// bash itself reads the script and asks it.
#[test]
fn bash_completes_verbs_and_flags() {
    let sandbox = Sandbox::new();
    let script = sandbox.join("rrun.bash");
    fs::write(&script, sandbox.rrun(&["completion", "bash"]).ok().stdout).unwrap();
    let ask = "source \"$0\"; COMP_WORDS=(rrun \"$@\"); COMP_CWORD=$#; \
               _rrun rrun \"${!#}\" \"\"; echo \"${COMPREPLY[@]}\"";
    for (words, expected) in [
        (&["che"][..], "checkpoint"),
        (&["create", "--console"], "--console-socket"),
        (&["completion", "zs"], "zsh"),
    ] {
        let mut bash = Command::new("bash");
        bash.args(["-c", ask]).arg(&script).args(words);
        assert_eq!(outcome::spawn(&mut bash).wait().ok().line(), expected, "{words:?}");
    }
    sandbox.rrun(&["completion", "sh"]).exits(1).complains_of(&["invalid value 'sh'"]);
}

#[test]
fn man_pages_need_a_place() {
    let sandbox = Sandbox::new();
    let refused = sandbox.rrun(&["man", "/no/where"]).exits(1);
    refused.complains_of(&["write man pages into /no/where"]);
}
