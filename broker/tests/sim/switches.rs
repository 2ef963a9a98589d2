//! Which rules hold in a simulation: all of them, unless a test asks what happens without one.

/// A rule of whoever has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Of the replicas.
    Replica(baton_replication::rules::Rule),
    /// Of the controller.
    Controller(baton_controller::rules::Rule),
    /// Of the coordinator of groups.
    Groups(baton_groups::rules::Rule),
    /// Of the host around a replica.
    Host(HostRule),
}

/// What the host sees to. The simulated host is small, so its rules are switched here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostRule {
    /// A process answers nothing before it has the metadata of its own registration or later.
    MetadataFirst,
    /// A partition is known by its topic's id, on disk and between brokers, not by its name.
    TopicIds,
    /// A log that was cut because it was damaged, or that is missing, is reported and does not vote.
    LossIsReported,
    /// After a flush that failed nothing is believed that it did not write.
    FailedFlushIsFinal,
    /// What deletes a key stays as long as a power cut may bring back what lies below the log's start.
    DeletionsAwaitTheStart,
}

/// The rules that hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Switches {
    pub replica: baton_replication::rules::Rules,
    pub controller: baton_controller::rules::Rules,
    pub groups: baton_groups::rules::Rules,
    off: Option<HostRule>,
}

impl Switches {
    /// All rules but one.
    pub fn without(rule: Rule) -> Switches {
        let mut switches = Switches::default();
        match rule {
            Rule::Replica(rule) => {
                switches.replica = baton_replication::rules::Rules::without(rule)
            }
            Rule::Controller(rule) => {
                switches.controller = baton_controller::rules::Rules::without(rule);
            }
            Rule::Groups(rule) => switches.groups = baton_groups::rules::Rules::without(rule),
            Rule::Host(rule) => switches.off = Some(rule),
        }
        switches
    }

    /// The same, with limits of offsets that leaders reach.
    pub fn with_offset_quantum(self, offsets: u64) -> Switches {
        Switches {
            replica: self.replica.with_offset_quantum(offsets),
            controller: self.controller.with_offset_quantum(offsets),
            ..self
        }
    }

    pub fn hold(&self, rule: HostRule) -> bool {
        self.off != Some(rule)
    }
}
