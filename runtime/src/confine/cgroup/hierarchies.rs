//! Which cgroup hierarchies there are, and where in them this process is.
//!
//! Reads no files: `host` does.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// The mounted hierarchies: v2 alone, v1, both (hybrid), or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// Those of version 1, in the order of their mounts.
    pub v1: Vec<Hierarchy>,
    /// That of version 2.
    pub unified: Option<Hierarchy>,
}

/// One hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// What it controls, such as `cpu` or `name=systemd`; empty for version 2.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The directory of this process's own cgroup, below the mount.
    pub own: PathBuf,
}

impl Hierarchies {
    /// Reads the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`.
    ///
    /// A hierarchy that is mounted more than once is taken where it is mounted first, unless another
    /// mount hides that one. One whose mount does not show this process's own cgroup is left out, since we could not name ours in it.
    ///
    /// Source: `proc_pid_mountinfo(5)`, `cgroups(7)`.
    #[must_use]
    pub fn parse(mountinfo: &str, own: &str) -> Self {
        let mut found = Self::default();
        let table = Table::parse(mountinfo);
        for (line, place) in &table.0 {
            let Some(mount) = Mount::parse(line).filter(|_| !table.hides(place)) else { continue };
            let Some((controllers, path)) = own.lines().find_map(|line| mount.own_path(line))
            else {
                continue;
            };
            let Ok(below) = Path::new(path).strip_prefix(&mount.root) else { continue };
            let own = if below.as_os_str().is_empty() {
                mount.point.clone()
            } else {
                mount.point.join(below)
            };
            let hierarchy = Hierarchy { controllers, mount: mount.point, own };
            if mount.is_unified {
                found.unified.get_or_insert(hierarchy);
            } else if !found.v1.iter().any(|other| other.controllers == hierarchy.controllers) {
                found.v1.push(hierarchy);
            }
        }
        found
    }

    /// Those of both versions.
    pub fn all(&self) -> impl Iterator<Item = &Hierarchy> {
        self.v1.iter().chain(&self.unified)
    }

    /// Whether version 2 is all there is.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.unified.is_some() && self.v1.is_empty()
    }
}

/// Every mount, with its line.
struct Table<'a>(Vec<(&'a str, Place)>);

/// Where a mount is in the tree of mounts.
struct Place {
    id: u32,
    parent: u32,
    point: PathBuf,
}

impl<'a> Table<'a> {
    fn parse(mountinfo: &'a str) -> Self {
        let place = |line: &str| {
            let mut fields = line.split(' ');
            let (id, parent) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            Some(Place { id, parent, point: unescape(fields.nth(2)?) })
        };
        Self(mountinfo.lines().filter_map(|line| Some((line, place(line)?))).collect())
    }

    /// Whether the path of `place` leads to another mount: one on top of it or of one above it, or
    /// one beside those on the way down.
    fn hides(&self, place: &Place) -> bool {
        let mut way = vec![place];
        // No way is longer than the table, whatever its numbers say.
        while let Some(above) = self.above(way[way.len() - 1])
            && way.len() < self.0.len()
        {
            way.push(above);
        }
        let is_on_the_way = |other: &Place| way.iter().any(|mount| mount.id == other.id);
        let hides = |mount: &Place, other: &Place| {
            let on_top = other.parent == mount.id && other.point == mount.point;
            let beside = other.parent == mount.parent && mount.point.starts_with(&other.point);
            on_top || beside
        };
        let others = || self.0.iter().map(|(_, other)| other).filter(|other| !is_on_the_way(other));
        way.iter().any(|mount| others().any(|other| hides(mount, other)))
    }

    fn above(&self, place: &Place) -> Option<&Place> {
        let mut places = self.0.iter().map(|(_, place)| place);
        places.find(|other| other.id == place.parent && other.id != place.id)
    }
}

struct Mount<'a> {
    root: PathBuf,
    point: PathBuf,
    is_unified: bool,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// `id parent major:minor root point options [optional fields] - type source super-options`
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        let is_unified = match file_system.next()? {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        let options = file_system.nth(1)?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
        // What cannot be reached from our root has no place here.
        let is_reachable = root.is_absolute() && point.is_absolute();
        is_reachable.then_some(Self { root, point, is_unified, options })
    }

    /// The controllers and the path of a line `number:controllers:path`, if it speaks of this mount.
    fn own_path<'b>(&self, line: &'b str) -> Option<(Vec<String>, &'b str)> {
        let (number, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        if self.is_unified {
            return (number == "0" && controllers.is_empty()).then(|| (Vec::new(), path));
        }
        let first = controllers.split(',').next().filter(|name| !name.is_empty())?;
        let here = self.options.split(',').any(|option| option == first);
        here.then(|| (controllers.split(',').map(str::to_owned).collect(), path))
    }
}

/// A path in mountinfo, where spaces, tabs, newlines and backslashes are three octal digits.
///
/// Source: `proc_pid_mountinfo(5)`.
#[must_use]
pub fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let octal = after.get(..3).and_then(|digits| str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) if *byte == b'\\' => {
                bytes.push(escaped);
                rest = &after[3..];
            }
            _ => bytes.push(*byte),
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
23 1 0:21 / / rw - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 23 0:32 / /mnt/again rw,relatime - cgroup cgroup rw,memory
";

    fn hierarchy(controllers: &[&str], mount: &str, own: &str) -> Hierarchy {
        let controllers = controllers.iter().map(ToString::to_string).collect();
        Hierarchy { controllers, mount: mount.into(), own: own.into() }
    }

    #[test]
    fn hybrid_lists_both_versions() {
        let own = "9:name=systemd:/\n4:memory:/api/12\n2:cpu,cpuacct:/\n5:pids:/\n0::/init.scope\n";
        let found = Hierarchies::parse(HYBRID, own);
        let base = "/sys/fs/cgroup";
        let expected = [
            hierarchy(
                &["cpu", "cpuacct"],
                &format!("{base}/cpu,cpuacct"),
                &format!("{base}/cpu,cpuacct"),
            ),
            hierarchy(&["memory"], &format!("{base}/memory"), &format!("{base}/memory/api/12")),
            hierarchy(&["name=systemd"], &format!("{base}/systemd"), &format!("{base}/systemd")),
        ];
        assert_eq!(found.v1, expected);
        let unified = hierarchy(&[], "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/init.scope");
        assert_eq!(found.unified, Some(unified));
        assert!(!found.is_unified());
    }

    #[test]
    fn v2_alone_and_none() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Hierarchies::parse(v2, "0::/user.slice/a.scope\n");
        assert!(found.is_unified());
        let own = found.unified.unwrap().own;
        assert_eq!(own, Path::new("/sys/fs/cgroup/user.slice/a.scope"));
        for (mountinfo, own) in
            [("", "0::/\n"), (v2, ""), (v2, "1:cpu:/\n"), ("x - cgroup2\n", "0::/")]
        {
            assert_eq!(Hierarchies::parse(mountinfo, own), Hierarchies::default(), "{own:?}");
        }
    }

    #[test]
    fn a_mount_of_a_part_is_taken_only_where_it_shows_us() {
        let part = "30 23 0:26 /docker/1 /sys/fs/cg\\040roup rw - cgroup2 cgroup2 rw\n";
        for (own, expected) in [
            ("0::/docker/1\n", Some("/sys/fs/cg roup")),
            ("0::/docker/1/in\n", Some("/sys/fs/cg roup/in")),
            ("0::/docker/2\n", None),
            ("0::/../other\n", None),
        ] {
            let found = Hierarchies::parse(part, own).unified.map(|hierarchy| hierarchy.own);
            assert_eq!(found.as_deref(), expected.map(Path::new), "{own:?}");
        }
    }

    #[test]
    fn octal_escapes() {
        for (text, expected) in
            [("/a\\040b", "/a b"), ("/a\\134", "/a\\"), ("/a\\04", "/a\\04"), ("/\\xyz", "/\\xyz")]
        {
            assert_eq!(unescape(text), Path::new(expected));
        }
    }

    #[test]
    fn what_another_mount_hides_is_not_there() {
        let own = "4:memory:/\n2:cpu,cpuacct:/\n0::/\n";
        let hidden = format!("{HYBRID}50 31 0:40 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n");
        let found = Hierarchies::parse(&hidden, own);
        assert_eq!(
            (found.v1, found.unified),
            (vec![hierarchy(&["memory"], "/mnt/again", "/mnt/again")], None)
        );
        let version_2 = format!("{hidden}51 50 0:38 / /sys/fs/cgroup rw - cgroup2 none rw\n");
        let found = Hierarchies::parse(&version_2, own);
        assert_eq!(found.unified, Some(hierarchy(&[], "/sys/fs/cgroup", "/sys/fs/cgroup")));
        let beside = format!("{HYBRID}52 23 0:41 / /sys rw - tmpfs tmpfs rw\n");
        assert_eq!(Hierarchies::parse(&beside, own).unified, None);
    }

    #[test]
    fn the_order_of_the_table_hides_nothing() {
        // What the initial ramdisk mounted and moved has smaller numbers than the root.
        let table =
            "30 99 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n99 1 0:21 / / rw - ext4 sda rw\n";
        let found = Hierarchies::parse(table, "0::/\n");
        assert_eq!(found.unified, Some(hierarchy(&[], "/sys/fs/cgroup", "/sys/fs/cgroup")));
        let round = "30 31 0:38 / /a rw - cgroup2 none rw\n31 30 0:21 / / rw - ext4 sda rw\n";
        assert!(Hierarchies::parse(round, "0::/\n").unified.is_some(), "a circle is no way");
    }
}
