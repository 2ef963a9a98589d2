//! The rules that can be switched off, one at a time, to show that each is needed.
//!
//! A test that guards a rule must fail without it. Outside of tests (feature `mutations`) the
//! switch does not exist: every rule holds, and the compiler removes the question.

/// A rule of `docs/groups.md` that a mutation test can switch off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A partition goes to its next owner only once the former one has given it up.
    GivenUpFirst,
    /// A member has given up what it lost in an epoch only once it shows that epoch.
    GivenUpByEpoch,
    /// An answer leaves only after what it tells is committed.
    AnsweredOnceCommitted,
    /// What an append that failed had changed is taken back.
    FailedAppendIsUndone,
    /// Members have a full session at a new coordinator.
    FullSessionAtANewCoordinator,
    /// A member commits only what it was given in the epoch that it names, or before.
    CommitBoundToGrant,
    /// A commit never lowers an offset, unless it names the one that it goes back from.
    CommitsDoNotGoBack,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 7] = [
        Rule::GivenUpFirst,
        Rule::GivenUpByEpoch,
        Rule::AnsweredOnceCommitted,
        Rule::FailedAppendIsUndone,
        Rule::FullSessionAtANewCoordinator,
        Rule::CommitBoundToGrant,
        Rule::CommitsDoNotGoBack,
    ];
}

/// Which rules hold. All of them, unless a test says otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    #[cfg(feature = "mutations")]
    off: Option<Rule>,
}

impl Rules {
    /// All rules but one. For tests only.
    #[cfg(feature = "mutations")]
    pub fn without(rule: Rule) -> Self {
        Rules { off: Some(rule) }
    }

    /// Whether a rule holds.
    #[cfg(feature = "mutations")]
    pub(crate) fn hold(&self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    /// Whether a rule holds.
    #[cfg(not(feature = "mutations"))]
    #[allow(clippy::unused_self)]
    pub(crate) fn hold(&self, _: Rule) -> bool {
        true
    }
}
