//! `linux.netDevices`: devices of the host's network that become the container's.
//!
//! ```text
//! parent                                   init
//! find: number and addresses
//! (makes init)                             has the network namespace
//! hand_over: to init's namespace
//! Go                            ----->     settle: addresses again, up
//! ```
//! A device loses its addresses when it changes its namespace; the permanent ones of global scope are
//! given back to it (runtime-spec, "Network Devices"). All else it keeps.

mod netlink;

use anyhow::{Context as _, Result, anyhow};
use nix::errno::Errno;
use nix::unistd::Pid;
use rrun_spec::oci::Linux;

use self::netlink::{Netlink, add_attribute, attributes};

/// Bytes of `struct ifinfomsg`.
const LINK: usize = 16;

/// Bytes of `struct ifaddrmsg`.
const ADDRESS: usize = 8;

/// What of an address is given back: where and whose it is, and how it is used.
const KEPT: [u16; 5] =
    [libc::IFA_ADDRESS, libc::IFA_LOCAL, libc::IFA_BROADCAST, libc::IFA_FLAGS, IFA_RT_PRIORITY];

/// `linux/if_addr.h`
const IFA_RT_PRIORITY: u16 = 9;

/// A device that the container is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name on the host.
    pub name: String,
    /// Its name inside; may hold one `%d`, for which the kernel puts the first free number.
    pub inside: String,
}

/// A device that was found, with what it would lose.
#[derive(Debug, Clone)]
pub struct Device {
    wanted: Wanted,
    index: u32,
    /// `RTM_NEWADDR` requests without the number of the device.
    addresses: Vec<Vec<u8>>,
}

/// The devices that `linux` asks for.
#[must_use]
pub fn wanted(linux: &Linux) -> Vec<Wanted> {
    let devices = linux.net_devices().iter().flatten();
    let mut all: Vec<_> = devices
        .map(|(name, device)| {
            let inside = device.name().clone().filter(|inside| !inside.is_empty());
            Wanted { name: name.clone(), inside: inside.unwrap_or_else(|| name.clone()) }
        })
        .collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// Finds the devices, before anything is made.
///
/// # Errors
///
/// `ENODEV` for one that is not there, with its JSON pointer.
pub fn find(wanted: &[Wanted]) -> Result<Vec<Device>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let netlink = Netlink::new().context("open a netlink socket")?;
    let device = |wanted: &Wanted| {
        let index = index(&netlink, &wanted.name)?;
        Ok(Device { wanted: wanted.clone(), index, addresses: addresses(&netlink, index)? })
    };
    wanted
        .iter()
        .map(|wanted| device(wanted).map_err(|errno| refusal(wanted, "find the device", errno)))
        .collect()
}

fn refusal(wanted: &Wanted, what: &str, errno: Errno) -> anyhow::Error {
    let Wanted { name, inside } = wanted;
    let cure = match errno {
        Errno::EPERM => ": it needs CAP_NET_ADMIN over the network that the device is in",
        Errno::EEXIST => ": the container has one of that name: choose another in its \"name\"",
        Errno::ENODEV => ": there is none of that name",
        Errno::EINVAL => ": this kind of device stays where it was made",
        _ => "",
    };
    anyhow!("/linux/netDevices/{name}: {what} as {inside}: {errno}{cure}")
}

/// The number of the device `name`.
fn index(netlink: &Netlink, name: &str) -> nix::Result<u32> {
    let mut request = vec![0; LINK];
    add_attribute(&mut request, libc::IFLA_IFNAME, &with_nul(name))?;
    let answer = netlink.request(libc::RTM_GETLINK, 0, &request)?;
    // struct ifinfomsg: family, type, index, ...
    let link = answer.first().and_then(|message| message.payload.get(4..8)?.first_chunk());
    link.map(|index| u32::from_ne_bytes(*index)).ok_or(Errno::EBADMSG)
}

fn with_nul(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// The addresses of device `index` that it is to keep.
fn addresses(netlink: &Netlink, index: u32) -> nix::Result<Vec<Vec<u8>>> {
    let answer = netlink.request(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS])?;
    answer.iter().filter_map(|message| kept(&message.payload, index).transpose()).collect()
}

/// A request for the address in `payload` again, if device `index` has it and it is to be kept.
fn kept(payload: &[u8], index: u32) -> nix::Result<Option<Vec<u8>>> {
    let header: &[u8; ADDRESS] = payload.first_chunk().ok_or(Errno::EBADMSG)?;
    let [family, prefix, flags, scope, a, b, c, d] = *header;
    let found = attributes(payload.get(ADDRESS..).unwrap_or_default()).ok_or(Errno::EBADMSG)?;
    let wide = found.iter().find(|(kind, _)| *kind == libc::IFA_FLAGS);
    let wide = wide.and_then(|(_, value)| value.first_chunk());
    let flags = wide.map_or(flags.into(), |value| u32::from_ne_bytes(*value));
    let permanent = flags & libc::IFA_F_PERMANENT != 0 && scope == libc::RT_SCOPE_UNIVERSE;
    if u32::from_ne_bytes([a, b, c, d]) != index || !permanent {
        return Ok(None);
    }
    let mut request = vec![family, prefix, 0, scope, 0, 0, 0, 0];
    for (kind, value) in found.into_iter().filter(|(kind, _)| KEPT.contains(kind)) {
        add_attribute(&mut request, kind, value)?;
    }
    Ok(Some(request))
}

/// Moves the devices to the network namespace of the process `pid`, and gives them their names there.
///
/// # Errors
///
/// `EPERM` without `CAP_NET_ADMIN` over both namespaces, `EEXIST` for a name that is taken there, `EINVAL`
/// for a device that cannot be moved; with the JSON pointer.
pub fn hand_over(devices: &[Device], pid: Pid) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let netlink = Netlink::new().context("open a netlink socket")?;
    let hand_over = |device: &Device| {
        let mut request = link(device.index, 0);
        add_attribute(&mut request, libc::IFLA_NET_NS_PID, &pid.as_raw().to_ne_bytes())?;
        add_attribute(&mut request, libc::IFLA_IFNAME, &with_nul(&device.wanted.inside))?;
        netlink.request(libc::RTM_NEWLINK, 0, &request)
    };
    for device in devices {
        hand_over(device).map_err(|errno| refusal(&device.wanted, "move the device", errno))?;
    }
    Ok(())
}

/// `struct ifinfomsg` for device `index`, which is to have those of its flags that are given.
fn link(index: u32, flags: i32) -> Vec<u8> {
    let mut request = vec![0; 4];
    request.extend(index.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request
}

/// Gives the devices their addresses back and puts them up, in the namespace that they are in now.
///
/// # Errors
///
/// What the kernel says, with the JSON pointer.
pub fn settle(devices: &[Device]) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let netlink = Netlink::new().context("open a netlink socket")?;
    for device in devices {
        let settled = settle_one(&netlink, device);
        settled.map_err(|errno| refusal(&device.wanted, "put the device up", errno))?;
    }
    Ok(())
}

fn settle_one(netlink: &Netlink, device: &Device) -> nix::Result<()> {
    // It keeps its number where that is free, as it is in a new namespace.
    let index = if device.wanted.inside.contains('%') {
        device.index
    } else {
        index(netlink, &device.wanted.inside)?
    };
    for address in &device.addresses {
        let mut request = address.clone();
        let place = request.get_mut(4..ADDRESS).ok_or(Errno::EBADMSG)?;
        place.copy_from_slice(&index.to_ne_bytes());
        netlink.request(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &request)?;
    }
    netlink.request(libc::RTM_NEWLINK, 0, &link(index, libc::IFF_UP)).map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_device_keeps_its_name_unless_it_gets_another() {
        let linux = json!({"netDevices": {"eth1": {}, "eth0": {"name": "inside%d"}}});
        let linux: Linux = serde_json::from_value(linux).unwrap();
        let device =
            |name: &str, inside: &str| Wanted { name: name.to_owned(), inside: inside.to_owned() };
        assert_eq!(wanted(&linux), [device("eth0", "inside%d"), device("eth1", "eth1")]);
    }

    fn address(flags: u32, scope: u8, index: u32) -> Vec<u8> {
        let mut payload = vec![2, 24, 0x80, scope];
        payload.extend(index.to_ne_bytes());
        add_attribute(&mut payload, libc::IFA_LOCAL, &[10, 0, 0, 1]).unwrap();
        add_attribute(&mut payload, libc::IFA_LABEL, b"eth0\0").unwrap();
        add_attribute(&mut payload, libc::IFA_FLAGS, &flags.to_ne_bytes()).unwrap();
        payload
    }

    #[test]
    fn permanent_addresses_of_the_whole_world_are_kept() {
        let kept_one = kept(&address(0x80, 0, 5), 5).unwrap().unwrap();
        assert_eq!(kept_one[..ADDRESS], [2, 24, 0, 0, 0, 0, 0, 0]);
        let kinds: Vec<_> =
            attributes(&kept_one[ADDRESS..]).unwrap().into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [libc::IFA_LOCAL, libc::IFA_FLAGS], "not the old name");
        for (flags, scope, index) in [(0, 0, 5), (0x80, 253, 5), (0x80, 0, 6)] {
            assert_eq!(kept(&address(flags, scope, index), 5), Ok(None));
        }
        assert_eq!(kept(&[0; 4], 5), Err(Errno::EBADMSG));
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let none = Wanted { name: "rrun-none".to_owned(), inside: "a".to_owned() };
        let error = find(&[none]).unwrap_err().to_string();
        assert!(error.starts_with("/linux/netDevices/rrun-none: find the device"), "{error}");
        assert!(find(&[]).unwrap().is_empty());
    }
}
