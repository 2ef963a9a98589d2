//! What figures were measured on: without it they mean nothing.

use std::path::Path;

/// Names and values, for the head of a report.
pub fn describe(dir: &Path) -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut told = vec![("cores", cores.to_string())];
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if let Some(model) = value_of(&cpuinfo, "model name") {
        told.push(("processor", model.to_owned()));
    }
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = value_of(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok());
    if let Some(kib) = kib {
        let kib: u64 = kib;
        told.push(("memory", format!("{:.1} GiB", kib as f64 / 1_048_576.0)));
    }
    if let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        told.push(("Linux", release.trim().to_owned()));
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    if let Some(kind) = filesystem(&mounts, &dir) {
        told.push(("file system", kind.to_owned()));
    }
    told
}

/// What makes figures mean less than they seem to.
pub fn doubts(dir: &Path) -> Vec<String> {
    let mut doubts = Vec::new();
    if cfg!(debug_assertions) {
        doubts.push("built without optimization; use cargo run --release".to_owned());
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    if filesystem(&mounts, &dir) == Some("tmpfs") {
        doubts.push(format!(
            "{} is in memory, so no flush costs anything; name a directory on a disk with --dir",
            dir.display()
        ));
    }
    doubts
}

/// The value behind `name` and a colon at the beginning of a line.
fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
}

/// The kind of file system that a directory is on: that of the deepest mount above it.
fn filesystem<'a>(mounts: &'a str, dir: &Path) -> Option<&'a str> {
    let lines = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    // Of two mounts on one place, the later one is seen.
    lines
        .filter(|(point, _)| dir.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_on_the_deepest_mount_above_it() {
        let mounts = "disk / ext4 rw 0 0\nnone /tmp tmpfs rw 0 0\nother /tmp/on-disk xfs rw 0 0\n";
        let of = |dir| filesystem(mounts, Path::new(dir));
        assert_eq!(of("/home"), Some("ext4"));
        assert_eq!(of("/tmp/x"), Some("tmpfs"));
        assert_eq!(of("/tmp/on-disk/x"), Some("xfs"));
        assert_eq!(of("/tmpx"), Some("ext4"));
    }

    #[test]
    fn values_are_found_by_their_whole_name() {
        let text = "MemTotal:   100 kB\nmodel name\t: A B\n";
        assert_eq!(value_of(text, "model name"), Some("A B"));
        assert_eq!(value_of(text, "MemTotal"), Some("100 kB"));
        assert_eq!(value_of(text, "name"), None);
    }
}
