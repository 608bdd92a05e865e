//! How long everyday work takes on the overlay, beside kernel overlayfs and fuse-overlayfs.
//!
//! `cargo bench --bench overlay -- DIRECTORY [ROUNDS]` as root, or inside `unshare -Urm`. The
//! directory should lie on a fresh journalled file system in memory, for example an ext4 image in
//! `/dev/shm` on a loop device. The file systems alternate within each round, so that other work
//! on the machine hits all of them; printed are the best times and their ratios to kernel
//! overlayfs. Under `taskset -c 0` waking the server costs little, which is easier to repeat.
#![allow(clippy::print_stdout, reason = "the result")]
#![allow(clippy::disallowed_methods, reason = "the work that is measured")]

use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rrun_fusefs::{Config, Options, Overlay, attach, mount_detached, open_device, serve};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Directories and files per directory of the lower layer that most workloads use.
const FOLDERS: usize = 200;
const FILES: usize = 50;
/// Files made and removed, spread over twenty directories.
const CREATED: usize = 20_000;
/// Files in the archive, and bytes in each.
const ARCHIVED: usize = 4_000;
const ARCHIVED_SIZE: usize = 10_000;
/// What the calling thread waits for between tries to find a mount.
const PATIENCE: Duration = Duration::from_millis(1);

/// A file system under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Overlayfs,
    FuseOverlayfs,
    Rrun,
    RrunWriteback,
}

const KINDS: [Kind; 4] = [Kind::Overlayfs, Kind::FuseOverlayfs, Kind::Rrun, Kind::RrunWriteback];

/// One thing to do, on a fresh mount; the second part is what is timed.
struct Workload {
    name: &'static str,
    prepare: fn(&Path, &Path) -> Outcome<()>,
    timed: fn(&Path, &Path) -> Outcome<()>,
}

const WORKLOADS: [Workload; 13] = [
    Workload { name: "walk, first", prepare: nothing, timed: walk },
    Workload { name: "walk, again", prepare: walk, timed: walk },
    Workload { name: "open+read 4k, again", prepare: read_all, timed: read_all },
    Workload { name: "lookup of missing names", prepare: walk, timed: miss },
    Workload { name: "create 20000", prepare: make_folders, timed: create },
    Workload { name: "create+write 4k", prepare: make_folders, timed: create_and_write },
    Workload { name: "unlink 20000", prepare: make_files, timed: unlink },
    Workload { name: "rename 20000", prepare: make_files, timed: rename },
    Workload { name: "chmod 20000", prepare: make_files, timed: chmod },
    Workload { name: "tar extract 40 MB", prepare: nothing, timed: extract },
    Workload { name: "copy up 2000", prepare: nothing, timed: copy_up },
    Workload { name: "rm -r of the lower tree", prepare: nothing, timed: remove_tree },
    Workload { name: "append 1k, 20000 times", prepare: make_folders, timed: append },
];

fn main() -> Outcome<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).filter(|a| a != "--bench").collect();
    match arguments.as_slice() {
        [mode, options, target] if mode == "serve" => serve_at(options, target.as_ref()),
        [directory] => run(directory.as_ref(), 3),
        [directory, rounds] => {
            let rounds = rounds.to_str().and_then(|text| text.parse().ok());
            run(directory.as_ref(), rounds.ok_or("ROUNDS is not a number")?)
        }
        _ => {
            println!("overlay bench: give a directory on a fresh file system: nothing measured");
            Ok(())
        }
    }
}

/// What a second process of this program does: mount and serve.
fn serve_at(options: &OsString, target: &Path) -> Outcome<()> {
    let overlay = Overlay::open(&Options::parse(options, Config::default())?.config)?;
    let device = open_device()?;
    let mount = mount_detached(device.as_fd())?;
    attach(mount.as_fd(), File::open(target)?.as_fd())?;
    drop(mount);
    Ok(serve(overlay, device)?)
}

fn run(directory: &Path, rounds: usize) -> Outcome<()> {
    let (lower, archive) = (directory.join("lower"), directory.join("archive.tar"));
    if !lower.exists() {
        build_lower(&lower)?;
        build_archive(directory, &archive)?;
    }
    println!(
        "{:<26} {:>9} {:>22} {:>22} {:>22}",
        "ms, ratio to overlayfs", "overlayfs", "fuse-overlayfs", "rrun", "rrun,writeback"
    );
    for workload in &WORKLOADS {
        let mut best = [Duration::MAX; KINDS.len()];
        for _ in 0..rounds {
            for (kind, best) in KINDS.into_iter().zip(&mut best) {
                *best = (*best).min(measure(kind, directory, workload)?);
            }
        }
        print_line(workload.name, &best);
    }
    Ok(())
}

fn print_line(name: &str, best: &[Duration; KINDS.len()]) {
    let [overlayfs, others @ ..] = best.map(|time| time.as_secs_f64() * 1e3);
    print!("{name:<26} {overlayfs:>9.1}");
    for time in others {
        print!(" {time:>13.1} ({:>5.2})", time / overlayfs);
    }
    println!();
}

/// One workload on a fresh upper directory and a fresh mount.
fn measure(kind: Kind, directory: &Path, workload: &Workload) -> Outcome<Duration> {
    let stage = directory.join("stage");
    for name in ["upper", "work", "merged"] {
        fs::create_dir_all(stage.join(name))?;
    }
    let merged = stage.join("merged");
    let server = mount(kind, directory, &stage)?;
    (workload.prepare)(&merged, directory)?;
    let start = Instant::now();
    (workload.timed)(&merged, directory)?;
    let time = start.elapsed();
    unmount(&merged, server)?;
    fs::remove_dir_all(&stage)?;
    Ok(time)
}

fn mount(kind: Kind, directory: &Path, stage: &Path) -> Outcome<Option<Child>> {
    let mut options = OsString::new();
    for (name, path) in [
        ("lowerdir=", directory.join("lower")),
        (",upperdir=", stage.join("upper")),
        (",workdir=", stage.join("work")),
    ] {
        options.push(name);
        options.push(path);
    }
    let merged = stage.join("merged");
    let before = fs::metadata(&merged)?.dev();
    let mut command = match kind {
        Kind::Overlayfs => {
            options.push(",userxattr");
            let mut command = Command::new("mount");
            command.args(["-t", "overlay", "overlay"]);
            command
        }
        Kind::FuseOverlayfs => Command::new("fuse-overlayfs"),
        Kind::Rrun | Kind::RrunWriteback => {
            if kind == Kind::RrunWriteback {
                options.push(",writeback");
            }
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("serve").arg(options).arg(&merged).stdin(Stdio::null());
            let server = command.spawn()?;
            while fs::metadata(&merged)?.dev() == before {
                std::thread::sleep(PATIENCE);
            }
            return Ok(Some(server));
        }
    };
    let done = command.arg("-o").arg(options).arg(&merged).status()?;
    if done.success() { Ok(None) } else { Err(format!("{kind:?} does not mount").into()) }
}

fn unmount(merged: &Path, server: Option<Child>) -> Outcome<()> {
    let done = Command::new("umount").arg(merged).status()?;
    if !done.success() {
        return Err("umount failed".into());
    }
    if let Some(mut server) = server
        && !server.wait()?.success()
    {
        return Err("the server failed".into());
    }
    Ok(())
}

fn build_lower(lower: &Path) -> Outcome<()> {
    for folder in 0..FOLDERS {
        let folder = lower.join(format!("folder{folder}"));
        fs::create_dir_all(&folder)?;
        for file in 0..FILES {
            fs::write(folder.join(format!("file{file}")), [b'x'; 4096])?;
        }
    }
    Ok(())
}

fn build_archive(directory: &Path, archive: &Path) -> Outcome<()> {
    let source = directory.join("source");
    for file in 0..ARCHIVED {
        let folder = source.join(format!("folder{}", file / FILES));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("file{file}")), vec![b'y'; ARCHIVED_SIZE])?;
    }
    let done =
        Command::new("tar").arg("-C").arg(&source).arg("-cf").arg(archive).arg(".").status()?;
    fs::remove_dir_all(&source)?;
    if done.success() { Ok(()) } else { Err("tar failed".into()) }
}

fn nothing(_merged: &Path, _directory: &Path) -> Outcome<()> {
    Ok(())
}

fn walk(merged: &Path, _directory: &Path) -> Outcome<()> {
    let mut folders = vec![merged.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.metadata()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
}

fn lower_files(merged: &Path) -> impl Iterator<Item = PathBuf> {
    (0..FOLDERS).flat_map(move |folder| {
        (0..FILES).map(move |file| merged.join(format!("folder{folder}/file{file}")))
    })
}

fn read_all(merged: &Path, _directory: &Path) -> Outcome<()> {
    let mut buffer = [0; 4096];
    for path in lower_files(merged) {
        File::open(path)?.read_exact_at(&mut buffer, 0)?;
    }
    Ok(())
}

fn miss(merged: &Path, _directory: &Path) -> Outcome<()> {
    for path in lower_files(merged) {
        if path.with_extension("missing").exists() {
            return Err("found what is not there".into());
        }
    }
    Ok(())
}

fn created(merged: &Path) -> impl Iterator<Item = PathBuf> {
    (0..CREATED).map(move |file| merged.join(format!("made{}/file{file}", file % 20)))
}

fn make_folders(merged: &Path, _directory: &Path) -> Outcome<()> {
    for folder in 0..20 {
        fs::create_dir(merged.join(format!("made{folder}")))?;
    }
    Ok(())
}

fn make_files(merged: &Path, directory: &Path) -> Outcome<()> {
    make_folders(merged, directory)?;
    create(merged, directory)
}

fn create(merged: &Path, _directory: &Path) -> Outcome<()> {
    for path in created(merged) {
        drop(OpenOptions::new().write(true).create_new(true).open(path)?);
    }
    Ok(())
}

fn create_and_write(merged: &Path, _directory: &Path) -> Outcome<()> {
    for path in created(merged) {
        OpenOptions::new().write(true).create_new(true).open(path)?.write_all(&[b'z'; 4096])?;
    }
    Ok(())
}

fn unlink(merged: &Path, _directory: &Path) -> Outcome<()> {
    for path in created(merged) {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn rename(merged: &Path, _directory: &Path) -> Outcome<()> {
    for path in created(merged) {
        fs::rename(&path, path.with_extension("renamed"))?;
    }
    Ok(())
}

fn chmod(merged: &Path, _directory: &Path) -> Outcome<()> {
    use std::os::unix::fs::PermissionsExt;
    for path in created(merged) {
        fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    }
    Ok(())
}

fn extract(merged: &Path, directory: &Path) -> Outcome<()> {
    let archive = directory.join("archive.tar");
    let done = Command::new("tar").arg("-C").arg(merged).arg("-xf").arg(archive).status()?;
    if done.success() { Ok(()) } else { Err("tar failed".into()) }
}

fn copy_up(merged: &Path, _directory: &Path) -> Outcome<()> {
    for path in lower_files(merged).take(2_000) {
        OpenOptions::new().append(true).open(path)?.write_all(b"more")?;
    }
    Ok(())
}

fn remove_tree(merged: &Path, _directory: &Path) -> Outcome<()> {
    for folder in 0..FOLDERS {
        fs::remove_dir_all(merged.join(format!("folder{folder}")))?;
    }
    Ok(())
}

fn append(merged: &Path, _directory: &Path) -> Outcome<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(merged.join("made0/log"))?;
    for _ in 0..20_000 {
        file.write_all(&[b'a'; 1024])?;
    }
    Ok(())
}
