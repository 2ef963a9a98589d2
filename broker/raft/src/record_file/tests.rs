//! What a power cut, a kill or a bad disk may leave of the file, and what recovery makes of it.

use super::*;

/// Content of a record.
fn text(i: u32) -> String {
    format!("record {i} ").repeat(16)
}

fn frames(records: impl IntoIterator<Item = u32>) -> Frames {
    let mut frames = Frames::default();
    for i in records {
        frames.push(&text(i)).expect("encodes");
    }
    frames
}

fn open(path: &Path) -> io::Result<(RecordFile, Vec<String>)> {
    let mut found = Vec::new();
    let file = RecordFile::open(path, |record| found.push(record))?;
    Ok((file, found))
}

fn texts(count: u32) -> Vec<String> {
    (0..count).map(text).collect()
}

/// Two records in an append of their own each, acknowledged; then one append of six more.
struct Sample {
    dir: tempfile::TempDir,
    /// All eight records acknowledged.
    whole: Vec<u8>,
    /// Where the six begin.
    synced_end: usize,
    /// The ends of the six.
    ends: Vec<usize>,
    /// The header when the six had been written, but not synced.
    header: Vec<u8>,
}

impl Sample {
    fn new() -> Sample {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let (mut file, _) = open(&path).expect("opens");
        file.append(&frames([0])).expect("written");
        file.append(&frames([1])).expect("written");
        let synced_end = file.bytes() as usize;
        let header = std::fs::read(&path).expect("read")[..HEADER_BYTES].to_vec();
        file.append(&frames(2..8)).expect("written");
        let mut ends = Vec::new();
        for end in 3..=8 {
            ends.push(synced_end + frames(2..end).bytes.len());
        }
        let whole = std::fs::read(&path).expect("read");
        assert_eq!(ends.last(), Some(&whole.len()));
        Sample {
            dir,
            whole,
            synced_end,
            ends,
            header,
        }
    }

    /// The file while the six were not synced.
    fn unsynced(&self) -> Vec<u8> {
        [&self.header, &self.whole[HEADER_BYTES..]].concat()
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// What recovery makes of `bytes`: where the file ends then, and its records.
    fn recover(&self, bytes: &[u8]) -> io::Result<(usize, Vec<String>)> {
        let mut found = Vec::new();
        let recovered = recover(&self.path(), bytes, |record| found.push(record))?;
        Ok((recovered.end, found))
    }

    /// Opens the file with these bytes: `count` records are there, and the next one is written and
    /// found behind them.
    fn goes_on(&self, bytes: &[u8], count: u32) {
        std::fs::write(self.path(), bytes).expect("written");
        let (mut file, found) = open(&self.path()).expect("opens");
        assert_eq!(found, texts(count));
        file.append(&frames([count])).expect("written");
        let (_, found) = open(&self.path()).expect("opens");
        assert_eq!(found, texts(count + 1));
    }

    fn is_refused(&self, bytes: &[u8], what: &str) -> String {
        let error = self.recover(bytes).err();
        error.unwrap_or_else(|| panic!("{what}")).to_string()
    }
}

#[test]
fn every_prefix_of_an_unsynced_append_is_cut_at_its_last_whole_record() {
    let sample = Sample::new();
    let bytes = sample.unsynced();
    for len in sample.synced_end..=bytes.len() {
        let whole = sample.ends.iter().filter(|end| **end <= len).count();
        let (end, found) = sample.recover(&bytes[..len]).expect("recovers");
        assert_eq!(found, texts(2 + whole as u32), "{len} bytes");
        assert!(end == sample.synced_end || sample.ends.contains(&end));
    }
    for (i, end) in sample.ends.iter().enumerate() {
        sample.goes_on(&bytes[..end - 1], 2 + i as u32);
    }
}

#[test]
fn any_subset_of_the_pages_of_an_unsynced_append_may_be_there() {
    const PAGE: usize = 128;
    let sample = Sample::new();
    let bytes = sample.unsynced();
    let first = sample.synced_end / PAGE;
    let pages = bytes.len().div_ceil(PAGE) - first;
    assert!((6..9).contains(&pages), "{pages}");
    for there in 0..1 << pages {
        let mut image = bytes.clone();
        let mut first_lost = image.len();
        for page in (0..pages).rev().filter(|page| there & (1 << page) == 0) {
            let start = ((first + page) * PAGE).max(sample.synced_end);
            let end = ((first + page + 1) * PAGE).min(image.len());
            image[start..end].fill(0);
            first_lost = start;
        }
        let whole = sample.ends.iter().filter(|end| **end <= first_lost).count();
        let (_, found) = sample.recover(&image).expect("recovers");
        assert_eq!(found, texts(2 + whole as u32), "pages {there:b}");
        if there % 32 == 10 {
            sample.goes_on(&image, found.len() as u32);
        }
    }
}

#[test]
fn zeros_and_rubbish_behind_the_last_record_are_cut() {
    let sample = Sample::new();
    for tail in [vec![0; 1], vec![0; 4096], vec![0xA5; 7], vec![0xA5; 4096]] {
        let image = [sample.whole.clone(), tail].concat();
        let (end, found) = sample.recover(&image).expect("recovers");
        assert_eq!(found, texts(8));
        assert_eq!(end, sample.whole.len());
        sample.goes_on(&image, 8);
    }
}

#[test]
fn a_flipped_bit_below_the_synced_end_is_refused() {
    let sample = Sample::new();
    for bit in HEADER_BYTES * 8..sample.whole.len() * 8 {
        let mut image = sample.whole.clone();
        image[bit / 8] ^= 1 << (bit % 8);
        let error = sample.is_refused(&image, &format!("bit {bit}"));
        assert!(error.contains("log: damaged at byte"), "{error}");
    }
    // The same while more is written behind it.
    let mut image = sample.unsynced();
    image[sample.synced_end - 1] ^= 1;
    sample.is_refused(&image, "before an unsynced append");
}

#[test]
fn a_damaged_last_record_below_the_synced_end_is_refused() {
    let sample = Sample::new();
    let last = sample.ends[4];
    for at in [last, last + 5, last + 9, last + 20, sample.whole.len() - 1] {
        let mut image = sample.whole.clone();
        image[at] ^= 0x10;
        let error = sample.is_refused(&image, &format!("byte {at}"));
        assert!(
            error.contains(&format!("damaged at byte {last}")),
            "{error}"
        );
    }
    let mut image = sample.whole.clone();
    image[last..].fill(0);
    sample.is_refused(&image, "zeros instead of the last record");
    std::fs::write(sample.path(), &image).expect("written");
    open(&sample.path()).expect_err("is refused");
    let left = std::fs::read(sample.path()).expect("read");
    assert_eq!(left, image, "nothing is cut");
}

#[test]
fn a_file_that_ends_below_its_synced_end_is_refused() {
    let sample = Sample::new();
    for len in [HEADER_BYTES, sample.ends[4], sample.whole.len() - 1] {
        sample.is_refused(&sample.whole[..len], &format!("{len} bytes"));
    }
    for len in [0, 7, HEADER_BYTES - 1] {
        let error = sample.is_refused(&sample.whole[..len], &format!("{len} bytes"));
        assert!(error.contains("no Raft log"), "{error}");
    }
}

#[test]
fn a_torn_slot_does_no_harm() {
    let sample = Sample::new();
    for at in SLOTS_AT {
        for len in 0..=SLOT_BYTES {
            for fill in [0, 0xA5] {
                let mut image = sample.whole.clone();
                image[at..at + len].fill(fill);
                let (_, found) = sample.recover(&image).expect("recovers");
                assert_eq!(found, texts(8));
            }
        }
        let mut image = sample.whole.clone();
        image[at] ^= 1;
        sample.goes_on(&image, 8);
    }
    let mut image = sample.whole.clone();
    for at in SLOTS_AT {
        image[at] ^= 1;
    }
    // No power cut tears both: one is always on disk before the other is written.
    let error = sample.is_refused(&image, "both slots");
    assert!(error.contains("the header is damaged"), "{error}");
}

#[test]
fn a_slot_is_written_only_while_the_other_is_on_disk() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("log");
    let (mut file, _) = open(&path).expect("opens");
    for i in 0..6 {
        let before = SLOTS_AT.map(|at| read_slot(&std::fs::read(&path).expect("read"), at));
        file.append(&frames([i])).expect("written");
        let after = SLOTS_AT.map(|at| read_slot(&std::fs::read(&path).expect("read"), at));
        let written = usize::from(after[1] > after[0]);
        assert_eq!(after[written], Some(file.bytes()));
        assert_eq!(before[1 - written], after[1 - written]);
        assert_eq!(before[1 - written], before.into_iter().max().flatten());
        if i == 3 {
            file = open(&path).expect("opens").0;
        }
    }
}

#[test]
fn after_a_failed_sync_of_the_directory_nothing_is_appended_to_a_file_without_a_name() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("log");
    let (mut file, _) = open(&path).expect("opens");
    file.append(&frames(0..3)).expect("written");
    file.sync_dir = |_| Err(io::ErrorKind::StorageFull.into());
    file.replace(&frames(0..2)).expect_err("fails");
    assert!(file.has_failed());
    file.append(&frames([2])).expect_err("is refused");
    file.replace(&frames(0..2)).expect_err("is refused");
    let inode = |metadata: std::fs::Metadata| std::os::unix::fs::MetadataExt::ino(&metadata);
    assert_eq!(
        inode(file.file.metadata().expect("metadata")),
        inode(std::fs::metadata(&path).expect("metadata")),
    );
    let (_, found) = open(&path).expect("opens");
    assert_eq!(found, texts(2));
}

#[test]
fn a_replaced_file_goes_on() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("log");
    let (mut file, _) = open(&path).expect("opens");
    file.append(&frames(0..5)).expect("written");
    file.replace(&frames(0..2)).expect("replaced");
    file.append(&frames([2])).expect("written");
    drop(file);
    let (_, found) = open(&path).expect("opens");
    assert_eq!(found, texts(3));
}
