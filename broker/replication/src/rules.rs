//! The rules that can be switched off, one at a time, to show that each is needed.
//!
//! A test that guards a rule must fail without it. Outside of tests (feature `mutations`) the
//! switch does not exist: every rule holds, and the compiler removes the question.

/// A rule of `docs/replication.md` that a mutation test can switch off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// While a set change is in flight, an entry is committed only if it is in both sets.
    JointCommit,
    /// A member is removed only if enough of those that stay hold everything.
    RemovalCheck,
    /// A fenced replica refuses lower epochs and, if it led, leads no more.
    FenceRefusesLower,
    /// Suspects do not count as holders.
    SuspectsDoNotCount,
    /// An acknowledgement leaves only after what it claims is flushed.
    AckAfterFlush,
    /// Entries that are held already are skipped; only a conflicting epoch truncates.
    EqualEntriesAreSkipped,
    /// A follower moves its watermark only once its log is a prefix of the leader's.
    WatermarkOnlyOncePrefix,
    /// A leader commits by counting holders of its own epoch only.
    OwnEpochCommits,
    /// Acknowledgements of an earlier life of a broker do not count.
    AckBoundToLife,
    /// A leader's office is bound to the life that was elected.
    GrantBoundToLife,
    /// A proposal of a set change stays in force until its outcome is learned.
    TimeoutIsNotRejection,
    /// A batch that only the leader holds is acknowledged without an offset.
    LeaderAckTellsNoOffset,
    /// After an election that may have lost entries, the first offset is the limit that no leader
    /// of before went beyond.
    LossyElectionsStartAtTheLimit,
    /// A leader that may lack what later leaders had committed cuts what those superseded.
    SupersededTailsAreCut,
    /// Entries that took long to be read are sent only where the leader still wants them sent.
    LateEntriesAreDropped,
    /// A leader that hands over takes no appends until it knows the outcome.
    PausedUntilTheOutcome,
    /// Without synchronous followers a leader acknowledges only while its lease lasts.
    LeaseWithoutFollowers,
    /// A repeated batch is answered with its first offset, across failovers.
    DedupeSurvivesFailover,
    /// A log's start never moves above what is known to be committed.
    StartBelowTheWatermark,
    /// A log that continues where it is to begin anew stays as it is: the message was late.
    ResetOnlyWhatDiffers,
    /// A follower that begins anew knows the producers of what lies below.
    ResetBringsProducers,
    /// A gap within an epoch is no conflict: logs part where the follower's run of it ends.
    GapsCutNothing,
    /// Where an election may have lost what superseded entries, a log that may lack these begins anew.
    LostSupersedersAreMadeGood,
    /// A leader's log is compacted no further than all members of the in-sync set have come.
    CompactionAwaitsTheSet,
    /// A member of the in-sync set discards its log, to be sent it again, only as a suspect.
    MembersDiscardNothing,
}

/// Which rules hold. All of them, unless a test says otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    #[cfg(feature = "mutations")]
    off: Option<Rule>,
    #[cfg(feature = "mutations")]
    offset_quantum: Option<u64>,
}

impl Rules {
    /// All rules but one. For tests only.
    #[cfg(feature = "mutations")]
    pub fn without(rule: Rule) -> Self {
        Rules {
            off: Some(rule),
            ..Rules::default()
        }
    }

    /// The same rules, with limits of offsets that are raised by so few that they are reached. For
    /// tests only.
    #[cfg(feature = "mutations")]
    pub fn with_offset_quantum(self, offsets: u64) -> Self {
        Rules {
            offset_quantum: Some(offsets),
            ..self
        }
    }

    /// By how many offsets a limit is raised at least.
    #[cfg(feature = "mutations")]
    pub fn offset_quantum(&self) -> u64 {
        self.offset_quantum.unwrap_or(crate::offsets::QUANTUM_MIN)
    }

    /// By how many offsets a limit is raised at least.
    #[cfg(not(feature = "mutations"))]
    #[inline(always)]
    pub fn offset_quantum(&self) -> u64 {
        crate::offsets::QUANTUM_MIN
    }

    /// Whether the rule holds.
    #[cfg(feature = "mutations")]
    pub fn hold(&self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    /// Whether the rule holds.
    #[cfg(not(feature = "mutations"))]
    #[inline(always)]
    pub fn hold(&self, _rule: Rule) -> bool {
        true
    }
}
