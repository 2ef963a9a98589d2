use std::ffi::OsString;
use std::path::PathBuf;

use super::bytes::ByteSize;
use super::rules::KEYS;
use super::*;

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn with_file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("baton.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

/// The error's text, with the file's directory left out.
fn refusal(text: &str, environment: &[(&str, &str)], flags: &[Override]) -> String {
    let (dir, path) = with_file(text);
    let error = Loaded::of(Some(&path), variables(environment), flags).unwrap_err();
    error
        .to_string()
        .replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn the_embedded_file_is_the_default() {
    let mut loaded = Loaded::of(None, [], &[]).unwrap();
    let shown = std::mem::take(&mut loaded.config.settings);
    assert_eq!(shown.len(), loaded.settings.len());
    assert_eq!(loaded.config, Config::default());
    assert!(
        loaded
            .settings
            .iter()
            .all(|setting| setting.origin == Origin::Default)
    );
}

#[test]
fn the_file_and_the_rules_have_every_key_of_the_struct_and_no_other() {
    let sections = serde_json::to_value(Config::default()).unwrap();
    let mut of_struct = Vec::new();
    for (section, keys) in sections.as_object().unwrap() {
        of_struct.extend(
            keys.as_object()
                .unwrap()
                .keys()
                .map(|key| format!("{section}.{key}")),
        );
    }
    let mut section = "";
    let mut of_file = Vec::new();
    for line in DEFAULT_FILE.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((key, _)) = line.split_once(" = ") {
            of_file.push(format!("{section}.{key}"));
        }
    }
    let of_rules: Vec<String> = KEYS.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(of_rules, of_file);
    of_struct.sort();
    of_file.sort();
    assert_eq!(of_struct, of_file);
}

#[test]
fn flags_stand_above_environment_above_file_above_defaults() {
    let (_dir, path) = with_file(
        "[broker]\nid = 2\nlisten = \"127.0.0.1:8001\"\npeer_listen = \"127.0.0.1:8002\"\n",
    );
    let environment = variables(&[
        ("BATON__BROKER__ID", "3"),
        ("BATON__BROKER__LISTEN", "127.0.0.1:9001"),
        ("BATON_BOOTSTRAP", "elsewhere:1"),
    ]);
    let flags = [("broker.id", "4".to_owned())];
    let loaded = Loaded::of(Some(&path), environment, &flags).unwrap();
    let broker = &loaded.config.broker;
    assert_eq!(broker.id, BrokerId(4));
    assert_eq!(broker.listen, "127.0.0.1:9001");
    assert_eq!(broker.peer_listen, "127.0.0.1:8002");
    assert_eq!(broker.raft_listen, Broker::default().raft_listen);
    let origins: Vec<&Origin> = loaded
        .settings
        .iter()
        .map(|setting| &setting.origin)
        .collect();
    assert_eq!(*origins[0], Origin::Flag("--id".into()));
    assert_eq!(
        *origins[2],
        Origin::Variable("BATON__BROKER__LISTEN".into())
    );
    assert_eq!(*origins[4], Origin::File(path));
    assert_eq!(*origins[6], Origin::Default);
}

#[test]
fn lists_and_sizes_are_read_from_every_source() {
    let (_dir, path) = with_file("[limits]\nmessage_bytes_max = 2097152\n");
    let environment = variables(&[
        ("BATON__CLUSTER__VOTERS", "1@127.0.0.1:7601, 2@[::1]:7602"),
        ("BATON__REPLICATION__WINDOW_BYTES", "16MiB"),
        ("BATON__REPLICATION__APPEND_BYTES_MAX", "65536"),
    ]);
    let config = Loaded::of(Some(&path), environment, &[]).unwrap().config;
    let voters: Vec<String> = config
        .cluster
        .voters
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(voters, ["1@127.0.0.1:7601", "2@[::1]:7602"]);
    assert_eq!(config.core().window_bytes, 16 << 20);
    assert_eq!(config.core().append_bytes_max, 64 << 10);
    assert_eq!(config.limits.message_bytes_max, 2 << 20);
}

#[test]
fn a_value_out_of_range_is_refused_with_its_source_key_and_what_is_allowed() {
    assert_eq!(
        refusal("[broker]\nthreads = 4000\n", &[], &[]),
        "baton.toml: broker.threads = 4000 is not allowed; it must be a whole number from 0 to 1024 threads"
    );
    assert_eq!(
        refusal("", &[("BATON__LOGGING__LEVEL", "loud")], &[]),
        "environment variable BATON__LOGGING__LEVEL: logging.level = \"loud\" is not allowed; it must be \"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\""
    );
    assert_eq!(
        refusal("", &[], &[("broker.id", "-1".to_owned())]),
        "flag --id: broker.id = \"-1\" is not allowed; it must be a whole number from 1 to 4294967295"
    );
    for text in [
        "[broker]\nlisten = \"localhost\"\n",
        "[broker]\nlisten = \":7401\"\n",
    ] {
        assert!(
            refusal(text, &[], &[]).contains("an address host:port"),
            "{text}"
        );
    }
    for voters in [
        "[]",
        "\"1@a:1\"",
        "[\"1@a:1\", \"1@b:1\"]",
        "[\"0@a:1\"]",
        "[[]]",
        "[\"a:1\"]",
    ] {
        let text = format!("[cluster]\nvoters = {voters}\n");
        assert!(refusal(&text, &[], &[]).contains("1 to 5 voters"), "{text}");
    }
    for size in ["\"1 lot\"", "1.5", "true", "\"99999999999GiB\"", "1"] {
        let text = format!("[log]\nsegment_bytes_max = {size}\n");
        assert!(
            refusal(&text, &[], &[]).contains("a size from 64KiB to 1GiB"),
            "{text}"
        );
    }
}

#[test]
fn an_unknown_key_is_refused_with_those_there_are() {
    assert_eq!(
        refusal("[logging]\nlevels = \"info\"\n", &[], &[]),
        "baton.toml: there is no key `logging.levels`; [logging] has level, format"
    );
    let text = refusal("", &[("BATON__BROKERS__ID", "1")], &[]);
    assert!(text.starts_with("environment variable BATON__BROKERS__ID: there is no key `brokers.id`; the sections are broker, cluster"), "{text}");
    assert!(refusal("broker = 3\n", &[], &[]).contains("there is no key `broker`"));
}

#[test]
fn a_variable_with_too_few_underscores_is_no_silent_default() {
    for name in ["BATON_BROKER__ID", "BATON_BROKER_ID"] {
        let text = refusal("", &[(name, "7")], &[]);
        assert_eq!(
            text,
            format!("environment variable {name} sets nothing; BATON__BROKER__ID sets broker.id")
        );
    }
    let others = variables(&[("BATON_BOOTSTRAP", "a:1"), ("BATON_BROKER_PORT", "1")]);
    Loaded::of(None, others, &[]).expect("they mean something else");
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    assert!(refusal("[broker\n", &[], &[]).starts_with("baton.toml is not valid TOML: "));
    let error = Loaded::of(Some(std::path::Path::new("/nowhere/b.toml")), [], &[]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot read the configuration file /nowhere/b.toml: ")
    );
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    assert_eq!(
        refusal("[raft]\nelection_timeout_min_ms = 400\n", &[], &[]),
        "baton.toml: raft.election_timeout_min_ms = 400 does not go with raft.election_timeout_max_ms = 300, the default; set that too: it must be more than raft.election_timeout_min_ms, which is 400"
    );
    let same = refusal("[broker]\nlisten = \"127.0.0.1:7501\"\n", &[], &[]);
    assert!(
        same.contains("broker.listen = \"127.0.0.1:7501\" does not go with"),
        "{same}"
    );
    let everywhere = "[broker]\nhttp_listen = \"0.0.0.0:7601\"\n";
    let same = refusal(everywhere, &[], &[]);
    assert!(same.contains("broker.raft_listen, which is"), "{same}");
    let wildcard = refusal("[broker]\nlisten = \"0.0.0.0:7401\"\n", &[], &[]);
    assert!(
        wildcard.contains("broker.advertised") && wildcard.contains("0.0.0.0:7401"),
        "{wildcard}"
    );
    let beat = refusal("[cluster]\nheartbeat_interval_ms = 500\n", &[], &[]);
    assert!(beat.contains("at least three times"), "{beat}");
    let sessions = "[groups]\nsession_timeout_min_ms = 2000\nsession_timeout_max_ms = 1000\n";
    let sessions = refusal(sessions, &[], &[]);
    assert!(
        sessions.contains("at least groups.session_timeout_min_ms, which is 2000"),
        "{sessions}"
    );
}

#[test]
fn the_records_of_groups_fit_what_can_be_stored() {
    let mut config = Config::default();
    assert_eq!(config.group_batch_bytes_max(), 16 << 20);
    config.log.segment_bytes_max = 64 << 10;
    config.limits.message_bytes_max = 1 << 10;
    assert_eq!(config.group_batch_bytes_max(), 32 << 10);
    let coordinator = config.coordinator();
    assert_eq!(coordinator.member_bytes_max, 16 << 10);
    // An offset with the longest text that may be kept with it, and its group's name.
    assert!(coordinator.metadata_bytes_max + 1_024 < 32 << 10);
    config.limits.message_bytes_max = 60 << 10;
    assert_eq!(config.group_batch_bytes_max(), 60 << 10);
    config.groups.heartbeat_interval_ms = 100;
    assert_eq!(config.coordinator().heartbeat_rebalance_ms, 100);
}

#[test]
fn sizes_are_written_as_people_write_them() {
    for (bytes, text) in [
        (0, "0"),
        (1_000, "1000"),
        (4_096, "4KiB"),
        (128 << 20, "128MiB"),
        (3 << 30, "3GiB"),
    ] {
        assert_eq!(ByteSize(bytes).to_string(), text);
        assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes));
    }
    assert_eq!("64 MiB".parse::<ByteSize>().unwrap(), ByteSize(64 << 20));
    assert_eq!("12B".parse::<ByteSize>().unwrap(), ByteSize(12));
}
