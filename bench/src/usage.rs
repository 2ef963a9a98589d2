//! What processes use, as Linux tells it in `/proc`: processor time, memory of their own, bytes that
//! went to and came from the disk. Knows nothing of what they do.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;

/// How often memory is looked at between the beginning and the end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A process that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// What it is called in the report.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

/// What a process has used since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Reading {
    cpu_seconds: f64,
    rss_anon_bytes: u64,
    read_bytes: u64,
    written_bytes: u64,
}

/// What a process used while it was watched.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    /// What it is called in the report.
    pub name: String,
    /// Processor time, its own and the system's on its behalf.
    pub cpu_seconds: f64,
    /// The most memory it had that no file stands behind: the page cache is not in it.
    pub rss_anon_bytes: u64,
    /// Bytes that had to be fetched from the disk.
    pub read_bytes: u64,
    /// Bytes that went to the page cache to be written. A page of a mapped file counts each time it
    /// becomes dirty.
    pub written_bytes: u64,
}

/// Watches processes from its start to its stop.
pub struct Meter {
    begun: Instant,
    watched: Vec<(Watched, Reading)>,
    stop: mpsc::Sender<()>,
    peaks: JoinHandle<Vec<u64>>,
}

impl Meter {
    /// Begins to watch.
    ///
    /// # Errors
    /// If a process is not there, or is another user's.
    pub fn start(watched: Vec<Watched>) -> anyhow::Result<Meter> {
        let pids: Vec<u32> = watched.iter().map(|watched| watched.pid).collect();
        let (stop, stopped) = mpsc::channel();
        let peaks = std::thread::spawn(move || peaks(&pids, &stopped));
        let watched = watched
            .into_iter()
            .map(|watched| Ok((watched.clone(), read(watched.pid)?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Meter {
            begun: Instant::now(),
            watched,
            stop,
            peaks,
        })
    }

    /// Ends watching; what each process used, and for how long it was watched.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn stop(self) -> anyhow::Result<(Vec<Usage>, Duration)> {
        let took = self.begun.elapsed();
        let mut usages = Vec::new();
        for (watched, before) in self.watched {
            let now = read(watched.pid)?;
            usages.push(Usage {
                name: watched.name,
                cpu_seconds: now.cpu_seconds - before.cpu_seconds,
                rss_anon_bytes: now.rss_anon_bytes,
                read_bytes: now.read_bytes - before.read_bytes,
                written_bytes: now.written_bytes - before.written_bytes,
            });
        }
        drop(self.stop);
        let peaks = self.peaks.join().expect("it does not panic");
        for (usage, peak) in usages.iter_mut().zip(peaks) {
            usage.rss_anon_bytes = usage.rss_anon_bytes.max(peak);
        }
        Ok((usages, took))
    }
}

/// The processor time that processes have used so far, together.
///
/// # Errors
/// If one is not there.
pub fn cpu_seconds(watched: &[Watched]) -> anyhow::Result<f64> {
    let each = watched
        .iter()
        .map(|watched| Ok(read(watched.pid)?.cpu_seconds));
    each.sum()
}

/// The most memory that each process had, until `stopped` is told or dropped.
fn peaks(pids: &[u32], stopped: &mpsc::Receiver<()>) -> Vec<u64> {
    let mut peaks = vec![0; pids.len()];
    while stopped.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        for (peak, pid) in peaks.iter_mut().zip(pids) {
            // One that is gone is an error of whoever stops the meter.
            *peak = rss_anon(*pid).unwrap_or(0).max(*peak);
        }
    }
    peaks
}

fn file(pid: u32, name: &str) -> anyhow::Result<String> {
    let path = Path::new("/proc").join(pid.to_string()).join(name);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn rss_anon(pid: u32) -> anyhow::Result<u64> {
    let kib = field(&file(pid, "status")?, "RssAnon").context("the system tells no RssAnon")?;
    Ok(kib << 10)
}

fn read(pid: u32) -> anyhow::Result<Reading> {
    let io = file(pid, "io")?;
    let ticks = cpu_ticks(&file(pid, "stat")?).context("/proc/PID/stat is not understood")?;
    Ok(Reading {
        cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        rss_anon_bytes: rss_anon(pid)?,
        read_bytes: field(&io, "read_bytes").context("the system tells no read_bytes")?,
        written_bytes: field(&io, "write_bytes").context("the system tells no write_bytes")?,
    })
}

/// The first number behind `name:` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let values = text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.strip_prefix(':')
    });
    values?.split_whitespace().next()?.parse().ok()
}

/// User and system time in `/proc/PID/stat`, in clock ticks.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, with anything in it.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 1234 5 6";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("7 (short) S 1"), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "rchar: 1\nread_bytes: 4096\nwrite_bytes: 8192\nRssAnon:\t     512 kB\n";
        assert_eq!(field(text, "read_bytes"), Some(4096));
        assert_eq!(field(text, "write_bytes"), Some(8192));
        assert_eq!(field(text, "RssAnon"), Some(512));
        assert_eq!(field(text, "bytes"), None);
    }

    #[test]
    fn this_process_can_be_watched() {
        let me = Watched {
            name: "me".into(),
            pid: std::process::id(),
        };
        let meter = Meter::start(vec![me]).expect("started");
        let (usages, _) = meter.stop().expect("stopped");
        assert_eq!(usages[0].name, "me");
        assert!(usages[0].rss_anon_bytes > 0);
        assert!(usages[0].cpu_seconds >= 0.0);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let gone = Watched {
            name: "gone".into(),
            pid: u32::MAX,
        };
        assert!(Meter::start(vec![gone]).is_err());
    }
}
