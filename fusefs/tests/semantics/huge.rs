//! Huge files of lower layers, which are copied up block by block.

use super::copying::remount;
use super::*;
use crate::model::{Random, seed};

/// Not a whole number of blocks.
const SIZE: usize = (12 << 20) + 1234;

/// Contents that differ from block to block.
fn contents(seed: u64) -> Vec<u8> {
    let mut random = Random(seed | 1);
    let block: Vec<u8> = (0..8191).map(|_| random.next() as u8).collect();
    block.iter().copied().cycle().take(SIZE).collect()
}

fn stage_huge(stage: &Path) -> (Layers, Vec<u8>) {
    let layers = Layers::new(stage, 1);
    let huge = contents(7);
    fs::write(layers.file(1, "d/huge", ""), &huge).unwrap();
    (layers, huge)
}

fn open_huge(mounted: &Mounted, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(mounted.path(name)).unwrap()
}

#[test]
fn a_byte_written_into_a_huge_file_costs_a_block() {
    everywhere(|_, stage| {
        let (layers, mut huge) = stage_huge(stage);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let file = open_huge(&mounted, "d/huge");
        let number = file.metadata().unwrap().ino();
        file.write_all_at(b"!", 5_000_000).unwrap();
        huge[5_000_000] = b'!';
        let partial = file.metadata().unwrap();
        assert_eq!((partial.size(), partial.ino()), (SIZE as u64, number));
        assert!(partial.blocks() * 512 <= 64 << 10, "{} blocks", partial.blocks());
        // Nothing stands for it where another program would look.
        assert!(!layers.upper().join("d").exists());
        assert!(fs::read(mounted.path("d/huge")).unwrap() == huge);
        drop(file);
        mounted.unmount();
        assert!(fs::read(layers.upper().join("d/huge")).unwrap() == huge);
        assert!(fs::read(layers.lower(1).join("d/huge")).unwrap() == contents(7));
        assert_eq!(names(&layers.work().join("partial")), [""; 0]);
    });
}

#[test]
fn metadata_of_a_huge_file_changes_at_once() {
    everywhere(|_, stage| {
        let (layers, huge) = stage_huge(stage);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        fs::set_permissions(mounted.path("d/huge"), PermissionsExt::from_mode(0o640)).unwrap();
        xattr::set(&mounted.path("d/huge"), "user.comment", b"kept").unwrap();
        let times = FileTimes::new().set_modified(UNIX_EPOCH + Duration::new(77, 88));
        open_huge(&mounted, "d/huge").set_times(times).unwrap();
        kill(mounted.server(), Signal::SIGKILL).unwrap();
        drop(mounted);
        let mounted = remount(&layers);
        mounted.unmount();
        let meta = fs::metadata(layers.upper().join("d/huge")).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()), (0o640, 77, 88));
        assert_eq!(xattr::get(&layers.upper().join("d/huge"), "user.comment").unwrap(), b"kept");
        assert!(fs::read(layers.upper().join("d/huge")).unwrap() == huge);
    });
}

#[test]
fn a_huge_file_can_be_renamed_linked_and_removed_meanwhile() {
    everywhere(|_, stage| {
        let (layers, mut huge) = stage_huge(stage);
        for name in ["linked", "moved", "removed", "replaced", "inside/huge"] {
            fs::write(layers.file(1, name, ""), &huge).unwrap();
        }
        fs::write(layers.file(1, "d/small", ""), "small").unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        for name in ["linked", "moved", "removed", "replaced", "inside/huge"] {
            open_huge(&mounted, name).write_all_at(b"changed", 4090).unwrap();
        }
        huge[4090..4097].copy_from_slice(b"changed");
        fs::hard_link(mounted.path("linked"), mounted.path("other")).unwrap();
        fs::rename(mounted.path("moved"), mounted.path("d/moved")).unwrap();
        let mut removed = open_huge(&mounted, "removed");
        fs::remove_file(mounted.path("removed")).unwrap();
        removed.write_all_at(b"changed", 9_999_999).unwrap();
        fs::rename(mounted.path("d/small"), mounted.path("replaced")).unwrap();
        let mut all = Vec::new();
        removed.read_to_end(&mut all).unwrap();
        let mut expected = huge.clone();
        expected[9_999_999..10_000_006].copy_from_slice(b"changed");
        assert!(all == expected);
        drop(removed);
        let check = |mounted: &Mounted| {
            for name in ["linked", "other", "d/moved", "inside/huge"] {
                assert!(fs::read(mounted.path(name)).unwrap() == huge, "{name}");
            }
            assert_eq!(mounted.read("replaced"), "small");
            assert_eq!(names(mounted.root()), ["d", "inside", "linked", "other", "replaced"]);
            assert_eq!(fs::metadata(mounted.path("other")).unwrap().nlink(), 2);
        };
        check(&mounted);
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        check(&mounted);
        mounted.unmount();
    });
}

#[test]
fn a_record_without_its_data_is_not_believed() {
    everywhere(|_, stage| {
        let (layers, mut huge) = stage_huge(stage);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let file = open_huge(&mounted, "d/huge");
        file.write_all_at(&[9; 4096], 4096).unwrap();
        huge[4096..8192].fill(9);
        drop(file);
        kill(mounted.server(), Signal::SIGKILL).unwrap();
        drop(mounted);
        // As if the machine had gone down after the record was written and before the data was.
        let copies = layers.work().join("partial");
        let record = copies.join(&names(&copies)[0]).join("present");
        let record = OpenOptions::new().write(true).open(record).unwrap();
        record.write_all_at(&[0xff; 64], 8).unwrap();
        let mounted = remount(&layers);
        assert!(fs::read(mounted.path("d/huge")).unwrap() == huge);
        mounted.unmount();
        assert!(fs::read(layers.upper().join("d/huge")).unwrap() == huge);
    });
}

#[test]
fn huge_files_hold_what_was_written_whatever_happens() {
    everywhere(|_, stage| {
        let seed = seed();
        println!("RRUN_SEED={seed}");
        let mut random = Random(seed);
        let (layers, mut model) = stage_huge(stage);
        for round in 0..6 {
            let mounted = if round == 0 {
                Mounted::new(&layers.config(), &layers.merged())
            } else {
                remount(&layers)
            };
            let file = open_huge(&mounted, "d/huge");
            for _ in 0..60 {
                change(&mut random, &file, &mut model);
            }
            let at = random.below(model.len() as u64 + 1) as usize;
            let mut part = vec![0; (model.len() - at).min(100_000)];
            file.read_exact_at(&mut part, at as u64).unwrap();
            assert!(part == model[at..at + part.len()]);
            assert!(fs::read(mounted.path("d/huge")).unwrap() == model, "round {round}");
            drop(file);
            if round % 3 == 2 {
                mounted.unmount();
                assert!(fs::read(layers.upper().join("d/huge")).unwrap() == model);
                // Once more from a lower layer.
                fs::rename(layers.upper().join("d/huge"), layers.lower(1).join("d/huge")).unwrap();
            } else {
                kill(mounted.server(), Signal::SIGKILL).unwrap();
            }
        }
    });
}

/// One random change of the file and of what it should hold.
fn change(random: &mut Random, file: &File, model: &mut Vec<u8>) {
    let at = random.below(model.len() as u64 + 10_000) as usize;
    let longest = *random.one_of(&[10, 4096, 20_000, 300_000]);
    let length = random.below(longest) as usize;
    match random.below(12) {
        0 => {
            // Mostly still huge.
            let size = model.len() - random.below(model.len() as u64 / 8) as usize;
            file.set_len(size as u64).unwrap();
            model.truncate(size);
        }
        1 => {
            file.set_len((model.len() + length) as u64).unwrap();
            model.resize(model.len() + length, 0);
        }
        2 => file.sync_all().unwrap(),
        3 => {
            let aligned = at / 4096 * 4096;
            write(random, file, model, aligned, 8192);
        }
        _ => write(random, file, model, at, length),
    }
}

fn write(random: &mut Random, file: &File, model: &mut Vec<u8>, at: usize, length: usize) {
    let data = vec![random.next() as u8; length];
    file.write_all_at(&data, at as u64).unwrap();
    if length > 0 {
        model.resize(model.len().max(at + length), 0);
        model[at..at + length].copy_from_slice(&data);
    }
}
