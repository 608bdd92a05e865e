//! Random operations, compared after every step with a plain directory.
//!
//! The model is a directory on the same file system that holds the merged tree, built from the
//! layers by other code than ours. `RRUN_SEED` repeats a run, `RRUN_MODEL_STEPS` makes it longer.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, copy_file_range, fallocate, renameat2};
use nix::sys::stat::{Mode, SFlag, mknod};

use rrun_fusefs::PermissionsKept;

use crate::common::look::{OLD, age, look, numbers, paths};
use crate::common::{Identity, Layers, Mounted, checksum, everywhere, without_devices, xattr};

/// Steps of each run, unless the environment says otherwise.
const STEPS: u32 = 150;

/// A generator of numbers that look random (xorshift64*).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let index = self.below(choices.len() as u64);
        &choices[usize::try_from(index).unwrap()]
    }
}

/// What every name is chosen from: few, so that they collide.
const NAMES: [&str; 6] = ["a", "b", "c", "d", ".hidden", "\u{fc} \n\\"];

pub(crate) fn seed() -> u64 {
    match std::env::var("RRUN_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_unset) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            u64::from(now.subsec_nanos()) << 20 | u64::from(std::process::id())
        }
    }
}

fn steps() -> u32 {
    std::env::var("RRUN_MODEL_STEPS").map_or(STEPS, |steps| steps.parse().unwrap())
}

/// One operation on paths below a root; the same for overlay and model.
#[derive(Clone, Debug)]
enum Step {
    Create(PathBuf, u64),
    WriteAt(PathBuf, u64, u64),
    Append(PathBuf),
    Truncate(PathBuf, u64),
    PunchHole(PathBuf, u64),
    CopyRange(PathBuf, PathBuf),
    MakeFolder(PathBuf),
    MakeFifo(PathBuf),
    MakeSymlink(PathBuf),
    Unlink(PathBuf),
    RemoveFolder(PathBuf),
    RemoveTree(PathBuf),
    Rename(PathBuf, PathBuf, RenameFlags),
    Link(PathBuf, PathBuf),
    Mode(PathBuf, u32),
    Owner(PathBuf, u32, u32),
    Times(PathBuf, u64),
    SetAttribute(PathBuf, u64),
    RemoveAttribute(PathBuf),
    UnlinkWhileOpen(PathBuf),
}

/// Chooses a step among the paths that exist now, and some that do not.
fn choose(random: &mut Random, model: &Path, many_ids: bool) -> Step {
    let all = paths(model);
    let path = |random: &mut Random| {
        let mut at = random.one_of(&all).clone();
        if random.below(3) == 0 {
            at.push(random.one_of(&NAMES));
        }
        at
    };
    let new = |random: &mut Random| random.one_of(&all).join(random.one_of(&NAMES));
    let size = |random: &mut Random| *random.one_of(&[0, 1, 100, 4095, 4096, 10_000, 200_000]);
    match random.below(23) {
        0 | 1 => Step::Create(new(random), size(random)),
        2 => Step::WriteAt(path(random), size(random), size(random)),
        3 => Step::Append(path(random)),
        4 => Step::Truncate(path(random), size(random)),
        5 => Step::PunchHole(path(random), size(random)),
        6 => Step::CopyRange(path(random), path(random)),
        7 | 8 => Step::MakeFolder(new(random)),
        9 => Step::MakeFifo(new(random)),
        10 => Step::MakeSymlink(new(random)),
        11 => Step::Unlink(path(random)),
        12 => Step::RemoveFolder(path(random)),
        13 => Step::RemoveTree(path(random)),
        14 | 15 => Step::Rename(path(random), path(random), RenameFlags::empty()),
        16 => Step::Rename(path(random), path(random), RenameFlags::RENAME_EXCHANGE),
        17 => Step::Rename(path(random), path(random), RenameFlags::RENAME_NOREPLACE),
        18 => Step::Link(path(random), new(random)),
        19 => Step::Mode(path(random), *random.one_of(&[0o600, 0o755, 0o644, 0o2755, 0o4711])),
        20 if many_ids => {
            Step::Owner(path(random), *random.one_of(&[0, 1, 1000]), *random.one_of(&[0, 5, 1000]))
        }
        20 | 21 => Step::Times(path(random), random.below(1_000_000_000)),
        _ => match random.below(3) {
            0 => Step::RemoveAttribute(path(random)),
            1 => Step::SetAttribute(path(random), random.below(300)),
            _ => Step::UnlinkWhileOpen(path(random)),
        },
    }
}

/// Carries a step out; the error it ends with, if any.
#[expect(clippy::too_many_lines, reason = "a table: one line for each kind of step")]
fn perform(root: &Path, step: &Step) -> Result<(), Errno> {
    let done = match step {
        Step::Create(path, size) => {
            let file = OpenOptions::new().write(true).create_new(true).open(root.join(path));
            file.and_then(|file| file.write_all_at(&data(*size, 1), 0))
        }
        Step::WriteAt(path, at, size) => {
            open(root, path).and_then(|file| file.write_all_at(&data(*size, 2), *at))
        }
        Step::Append(path) => {
            use std::io::Write as _;
            let file = OpenOptions::new().append(true).open(plain(root, path)?);
            file.and_then(|mut file| file.write_all(b"appended"))
        }
        Step::Truncate(path, size) => open(root, path).and_then(|file| file.set_len(*size)),
        Step::PunchHole(path, size) => open(root, path).and_then(|file| punch(&file, *size)),
        Step::CopyRange(from, to) => copy_range(root, from, to),
        Step::MakeFolder(path) => fs::create_dir(root.join(path)),
        Step::MakeFifo(path) => {
            mknod(&root.join(path), SFlag::S_IFIFO, Mode::S_IRUSR, 0).map_err(Into::into)
        }
        Step::MakeSymlink(path) => symlink("some/where", root.join(path)),
        Step::Unlink(path) => fs::remove_file(root.join(path)),
        Step::RemoveFolder(path) => fs::remove_dir(below(root, path)?),
        Step::RemoveTree(path) => fs::remove_dir_all(below(root, path)?),
        Step::Rename(from, to, flags) => {
            renameat2(AT_FDCWD, &below(root, from)?, AT_FDCWD, &below(root, to)?, *flags)
                .map_err(Into::into)
        }
        Step::Link(from, to) => fs::hard_link(root.join(from), root.join(to)),
        Step::Mode(path, mode) => {
            fs::set_permissions(solid(root, path)?, PermissionsExt::from_mode(*mode))
        }
        Step::Owner(path, uid, gid) => {
            std::os::unix::fs::lchown(root.join(path), Some(*uid), Some(*gid))
        }
        Step::Times(path, nanoseconds) => set_times(&solid(root, path)?, *nanoseconds),
        Step::SetAttribute(path, length) => {
            xattr::set(&solid(root, path)?, "user.test", &data(*length, 3)).map_err(Into::into)
        }
        Step::RemoveAttribute(path) => {
            xattr::remove(&solid(root, path)?, "user.test").map_err(Into::into)
        }
        Step::UnlinkWhileOpen(path) => unlink_while_open(&plain(root, path)?),
    };
    done.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// Bytes that tell where they belong.
fn data(size: u64, salt: u8) -> Vec<u8> {
    (0..size).map(|at| (at / 7) as u8 ^ salt).collect()
}

/// The path of a regular file; a fifo would block.
fn plain(root: &Path, path: &Path) -> Result<PathBuf, Errno> {
    let path = root.join(path);
    match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_file() => Ok(path),
        Ok(_) => Err(Errno::EINVAL),
        Err(_) => Err(Errno::ENOENT),
    }
}

/// The path of anything but a symbolic link.
fn solid(root: &Path, path: &Path) -> Result<PathBuf, Errno> {
    let path = root.join(path);
    match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_symlink() => Err(Errno::EINVAL),
        Ok(_) => Ok(path),
        Err(_) => Err(Errno::ENOENT),
    }
}

/// A path that is not the root itself, which differs between mount and directory.
fn below(root: &Path, path: &Path) -> Result<PathBuf, Errno> {
    if path.as_os_str().is_empty() { Err(Errno::EBUSY) } else { Ok(root.join(path)) }
}

fn open(root: &Path, path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(plain(root, path)?)
}

/// Takes the set-id bits of a file whose contents were changed by fallocate(2) or
/// `copy_file_range(2)`: the overlay does so by itself for everybody, a directory only for those
/// without privilege.
fn drop_set_id(file: &File) -> std::io::Result<()> {
    let mode = file.metadata()?.mode();
    let group = if mode & 0o010 == 0 { mode & 0o2000 } else { 0 };
    file.set_permissions(PermissionsExt::from_mode(mode & 0o1777 | group))
}

fn punch(file: &File, size: u64) -> std::io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, flags, 50, i64::try_from(size + 1).unwrap())?;
    drop_set_id(file)
}

fn copy_range(root: &Path, from: &Path, to: &Path) -> std::io::Result<()> {
    const LENGTH: usize = 100_000;
    let (source, target) = (open(root, from)?, open(root, to)?);
    let (mut at, mut to_at) = (0, 300);
    if source.metadata()?.ino() == target.metadata()?.ino() {
        return Err(Errno::EINVAL.into());
    }
    while copy_file_range(&source, Some(&mut at), &target, Some(&mut to_at), LENGTH)? > 0 {}
    drop_set_id(&target)
}

fn set_times(path: &Path, nanoseconds: u64) -> std::io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() || fs::metadata(path)?.is_file() {
        let time = UNIX_EPOCH + OLD / 2 + Duration::from_nanos(nanoseconds);
        let times = FileTimes::new().set_accessed(time).set_modified(time);
        return File::open(path)?.set_times(times);
    }
    Ok(())
}

/// What was open when its name went can be read and written on.
fn unlink_while_open(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let links = file.metadata()?.nlink();
    fs::remove_file(path)?;
    assert_eq!(file.metadata()?.nlink(), links - 1, "{path:?}");
    if links == 1 {
        file.write_all_at(b"still here", 5)?;
        let mut buffer = [0; 10];
        file.read_exact_at(&mut buffer, 5)?;
        assert_eq!(&buffer, b"still here", "{path:?}");
        file.set_len(0)?;
    }
    Ok(())
}

/// Fails with the differences alone.
fn compare(overlay: &Path, model: &Path, after: &str) {
    let (ours, theirs) = (look(overlay), look(model));
    for (path, theirs) in &theirs {
        match ours.get(path) {
            None => panic!("{after}: {path:?} is missing"),
            Some(ours) if ours != theirs => panic!("{after}: {path:?}\n{ours:?}\n{theirs:?}"),
            Some(_) => {}
        }
    }
    for path in ours.keys() {
        assert!(theirs.contains_key(path), "{after}: {path:?} should not be there");
    }
}

/// Fills the layers at random, bottom up, and keeps the model in step.
fn build(random: &mut Random, layers: &Layers, lowers: usize, model: &Path, identity: Identity) {
    for layer in (1..=lowers).rev() {
        let root = layers.lower(layer);
        for _ in 0..12 {
            let step = choose(random, model, identity.has_many_ids());
            add_to_layer(random, &root, model, &step, layer == lowers);
        }
    }
    // Hard links, out of reach of the layers above, which cannot see how many names count.
    for top in [&layers.lower(lowers), model] {
        let folder = top.join("links");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("one"), "linked").unwrap();
        fs::hard_link(folder.join("one"), folder.join("two")).unwrap();
        fs::hard_link(folder.join("one"), folder.join("three")).unwrap();
    }
    let tops = (1..=lowers).map(|layer| layers.lower(layer));
    for top in tops.chain([layers.upper(), model.to_owned()]) {
        age(&top);
    }
}

/// Adds what `step` makes to a layer and the model, or hides or replaces something there.
fn add_to_layer(random: &mut Random, root: &Path, model: &Path, step: &Step, bottom: bool) {
    let path = match step {
        Step::Create(path, _) | Step::MakeFolder(path) | Step::MakeFifo(path) => path,
        Step::Unlink(path) | Step::RemoveTree(path) | Step::MakeSymlink(path) => path,
        _ => return,
    };
    if path.as_os_str().is_empty() || !prepare_parents(root, model, path) {
        return;
    }
    let hides = matches!(step, Step::Unlink(_) | Step::RemoveTree(_));
    if hides {
        let known = fs::symlink_metadata(model.join(path)).is_ok();
        let own = fs::symlink_metadata(root.join(path)).is_ok();
        if known && !own && !bottom {
            mknod(&root.join(path), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
            remove(&model.join(path));
        }
        return;
    }
    if fs::symlink_metadata(root.join(path)).is_ok() {
        return;
    }
    let below = fs::symlink_metadata(model.join(path)).ok();
    let merges =
        matches!(step, Step::MakeFolder(_)) && below.as_ref().is_some_and(fs::Metadata::is_dir);
    let opaque = merges && !bottom && random.below(2) == 0;
    if below.is_some() && (!merges || opaque) {
        remove(&model.join(path));
    }
    perform(root, step).unwrap();
    if opaque {
        xattr::set(&root.join(path), "user.overlay.opaque", b"y").unwrap();
    }
    if merges && !opaque {
        let mode = fs::metadata(root.join(path)).unwrap().permissions();
        fs::set_permissions(model.join(path), mode).unwrap();
    } else {
        perform(model, step).unwrap();
    }
}

/// Makes the directories above `path` in the layer; `false` if the model has something else there.
fn prepare_parents(root: &Path, model: &Path, path: &Path) -> bool {
    let parent = path.parent().unwrap();
    let mut here = PathBuf::new();
    for part in parent {
        here.push(part);
        let is_folder =
            |top: &Path| fs::symlink_metadata(top.join(&here)).is_ok_and(|meta| meta.is_dir());
        if !is_folder(model) {
            return false;
        }
        if !is_folder(root) {
            if fs::symlink_metadata(root.join(&here)).is_ok() {
                return false;
            }
            fs::create_dir(root.join(&here)).unwrap();
        }
    }
    true
}

fn remove(path: &Path) {
    if fs::symlink_metadata(path).unwrap().is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

fn run(identity: Identity, layers: &Layers, lowers: usize, random: &mut Random) {
    run_and(identity, layers, lowers, random, || ());
}

/// The same with something done after each step.
fn run_and(
    identity: Identity,
    layers: &Layers,
    lowers: usize,
    random: &mut Random,
    then: impl Fn(),
) {
    let model = layers.merged().with_file_name("model");
    fs::create_dir(&model).unwrap();
    build(random, layers, lowers, &model, identity);
    let before: Vec<_> = (1..=lowers).map(|layer| checksum(&layers.lower(layer))).collect();
    let mut mounted = Mounted::new(&layers.config(), &layers.merged());
    compare(mounted.root(), &model, "at first");
    for number in 0..steps() {
        let step = choose(random, &model, identity.has_many_ids());
        let ours = perform(mounted.root(), &step);
        let theirs = perform(&model, &step);
        assert_eq!(ours, theirs, "step {number}: {step:?}");
        then();
        compare(mounted.root(), &model, &format!("step {number}: {step:?}"));
        if random.below(40) == 0 {
            let before = numbers(mounted.root());
            mounted.unmount();
            mounted = Mounted::new(&layers.config(), &layers.merged());
            compare(mounted.root(), &model, &format!("remount after step {number}: {step:?}"));
            assert_eq!(numbers(mounted.root()), before, "after step {number}: {step:?}");
        }
    }
    mounted.unmount();
    let after: Vec<_> = (1..=lowers).map(|layer| checksum(&layers.lower(layer))).collect();
    assert_eq!(before, after, "a lower layer has changed");
}

/// Each number of layers is a test of its own, so that they run side by side.
fn with_layers(lowers: usize) {
    let seed = seed();
    println!("RRUN_SEED={seed}");
    everywhere(|identity, stage| {
        let mut random = Random(seed | 1);
        run(identity, &Layers::new(stage, lowers), lowers, &mut random);
    });
}

#[test]
fn writes_that_the_kernel_gathers_end_the_same() {
    let seed = seed();
    println!("RRUN_SEED={seed}");
    everywhere(|identity, stage| {
        let layers = Layers::new(stage, 2).with_writeback();
        run(identity, &layers, 2, &mut Random(seed | 1));
    });
}

/// Whatever the kernel forgets meanwhile is found again, and is the same.
#[test]
fn what_the_kernel_forgets_is_the_same_afterwards() {
    let seed = seed();
    println!("RRUN_SEED={seed}");
    everywhere(|identity, stage| {
        if identity == Identity::Root {
            // Dropping the kernel's caches is root's alone.
            let forget = || fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            run_and(identity, &Layers::new(stage, 2), 2, &mut Random(seed | 1), forget);
        }
    });
}

#[test]
fn permissions_in_an_attribute_behave_the_same() {
    let seed = seed();
    println!("RRUN_SEED={seed}");
    everywhere(|identity, stage| {
        let layers = Layers::new(stage, 2).with_permissions(PermissionsKept::User);
        run(identity, &layers, 2, &mut Random(seed | 1));
    });
}

#[test]
fn whiteouts_as_files_behave_like_devices() {
    let seed = seed();
    println!("RRUN_SEED={seed}");
    everywhere(|identity, stage| {
        let top = without_devices(stage);
        let layers = Layers::new(stage, 3).with_upper(&top);
        run(identity, &layers, 3, &mut Random(seed | 1));
        nix::mount::umount(&top).unwrap();
    });
}

#[test]
fn one_layer_behaves_like_a_directory() {
    with_layers(1);
}

#[test]
fn two_layers_behave_like_a_directory() {
    with_layers(2);
}

#[test]
fn three_layers_behave_like_a_directory() {
    with_layers(3);
}

#[test]
fn five_layers_behave_like_a_directory() {
    with_layers(5);
}

#[test]
fn eight_layers_behave_like_a_directory() {
    with_layers(8);
}
