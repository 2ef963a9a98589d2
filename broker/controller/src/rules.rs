//! The controller's rules that can be switched off, one at a time, to show that each is needed: as
//! in the replication crate, for tests only (feature `mutations`).

/// A rule of `docs/replication.md` that a mutation test can switch off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// An election that loses nothing needs answers of all members but as many as may fail.
    ElectionNeedsAnswers,
    /// The answers of suspects are no votes.
    SuspectsHaveNoVote,
    /// Only the leader removes members: a death alone shrinks no set.
    OnlyTheLeaderRemoves,
    /// An election leaves the set as it is.
    ElectionsShrinkNoSet,
    /// Elections reckon with more failures only once enough holders are proven.
    FailuresAreRaisedWhenProven,
    /// A member is added in the life that was verified.
    AdditionBoundToLife,
    /// A change is made only to the version that it was proposed against.
    CompareOnVersion,
    /// A disk that is not the one the broker had before makes it a suspect.
    OtherDiskIsSuspect,
    /// What a lossy election may have lost is left behind by raising the first offset.
    LossyElectionsAreRecorded,
    /// A heartbeat is answered once it is known that nobody else had been elected when it came.
    HeartbeatsAwaitTheMajority,
}

/// Which rules hold. All of them, unless a test says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
        self.offset_quantum.unwrap_or(crate::state::OFFSET_QUANTUM)
    }

    /// By how many offsets a limit is raised at least.
    #[cfg(not(feature = "mutations"))]
    #[inline(always)]
    pub fn offset_quantum(&self) -> u64 {
        crate::state::OFFSET_QUANTUM
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
