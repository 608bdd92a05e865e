//! `linux.resources.blockIO`: `blkio` of version 1, `io` of version 2.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice, LinuxWeightDevice};

use crate::confine::cgroup::setting::{Form, Setting};

pub(super) fn add(block_io: &LinuxBlockIo, settings: &mut Vec<Setting>) {
    if let Some(weight) = given(block_io.weight()) {
        let v1 = Form::either([
            ("blkio.weight", weight.to_string()),
            ("blkio.bfq.weight", weight.to_string()),
        ]);
        let v2 = Form::either([
            ("io.bfq.weight", weight.to_string()),
            ("io.weight", io_weight(weight).to_string()),
        ]);
        settings.push(Setting::new("blockIO/weight", "io", v1, v2));
    }
    if let Some(weight) = given(block_io.leaf_weight()) {
        let v1 = Form::file("blkio.leaf_weight", weight);
        settings.push(Setting::new("blockIO/leafWeight", "io", v1, no_leaf()));
    }
    for (at, device) in block_io.weight_device().iter().flatten().enumerate() {
        add_device_weights(at, device, settings);
    }
    add_throttles(block_io, settings);
}

fn add_throttles(block_io: &LinuxBlockIo, settings: &mut Vec<Setting>) {
    let reads = (block_io.throttle_read_bps_device(), block_io.throttle_read_iops_device());
    let writes = (block_io.throttle_write_bps_device(), block_io.throttle_write_iops_device());
    for (name, v1, key, devices) in [
        ("throttleReadBpsDevice", "read_bps_device", "rbps", reads.0),
        ("throttleWriteBpsDevice", "write_bps_device", "wbps", writes.0),
        ("throttleReadIOPSDevice", "read_iops_device", "riops", reads.1),
        ("throttleWriteIOPSDevice", "write_iops_device", "wiops", writes.1),
    ] {
        for (at, device) in devices.iter().flatten().enumerate() {
            settings.push(throttle(&format!("blockIO/{name}/{at}"), v1, key, device));
        }
    }
}

/// Engines write 0 for "not given".
fn given(weight: Option<u16>) -> Option<u16> {
    weight.filter(|weight| *weight != 0)
}

fn no_leaf() -> Form {
    Form::no_version_2("cure: leave it out, or set blockIO.weight")
}

fn add_device_weights(at: usize, device: &LinuxWeightDevice, settings: &mut Vec<Setting>) {
    let field = format!("blockIO/weightDevice/{at}");
    let number = format!("{}:{}", device.major(), device.minor());
    if let Some(weight) = given(device.weight()) {
        let text = format!("{number} {weight}");
        let v1 = Form::either([
            ("blkio.weight_device", text.clone()),
            ("blkio.bfq.weight_device", text.clone()),
        ]);
        let v2 = Form::either([
            ("io.bfq.weight", text),
            ("io.weight", format!("{number} {}", io_weight(weight))),
        ]);
        settings.push(Setting::new(format!("{field}/weight"), "io", v1, v2));
    }
    if let Some(weight) = given(device.leaf_weight()) {
        let v1 = Form::file("blkio.leaf_weight_device", format!("{number} {weight}"));
        settings.push(Setting::new(format!("{field}/leafWeight"), "io", v1, no_leaf()));
    }
}

/// A rate of 0 is no limit, as version 1 has it.
fn throttle(
    field: &str,
    v1: &'static str,
    key: &'static str,
    device: &LinuxThrottleDevice,
) -> Setting {
    let (number, rate) = (format!("{}:{}", device.major(), device.minor()), device.rate());
    let limit = if rate == 0 { "max".to_owned() } else { rate.to_string() };
    let v1 = Form::file(format!("blkio.throttle.{v1}"), format!("{number} {rate}"));
    let v2 = Form::file("io.max", format!("{number} {key}={limit}"));
    Setting::new(field, "io", v1, v2)
}

/// `io.weight` (1 to 10000) for a weight of 10 to 1000, on a straight line.
///
/// Source: runc `ConvertBlkIOToIOWeightValue`, Kubernetes KEP 2254.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.max(10)) - 10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_become_weights() {
        for (weight, expected) in [(1, 1), (10, 1), (100, 910), (750, 7475), (1000, 10_000)] {
            assert_eq!(io_weight(weight), expected, "{weight}");
        }
    }
}
