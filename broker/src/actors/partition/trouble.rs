//! What keeps a replica from doing its part, and who is told.

use baton_protocol::ids::Tick;
use baton_replication::event::Breach;
use baton_storage::StorageError;

use super::Partition;
use crate::actors::control_link::Report;
use crate::driver::BrokenReason;

/// How often a loss is reported until the metadata shows it, in milliseconds.
const REPORT_AGAIN_MS: u64 = 1_000;

/// How often it is looked for trouble that the controller should know of, in milliseconds.
const LOOK_AGAIN_MS: u64 = 1_000;

impl Partition {
    /// What cannot be repaired here is said loudly; the other replicas go on without this one. A
    /// disk that failed is no matter of one replica: the broker ends. So it does where there was
    /// too little of something for what cannot be refused any more, such as a cut.
    pub(super) fn broken(&self, reason: &BrokenReason) {
        let (partition, name) = (self.id, self.name());
        tracing::error!(%partition, name, ?reason, "this replica takes no part any more");
        let shortage = match reason {
            BrokenReason::Storage(error) => error.shortage(),
            BrokenReason::Breach(_) => None,
        };
        if let Some(of) = shortage {
            self.around.failure.no_room(partition, of);
        }
        match reason {
            BrokenReason::Storage(error @ StorageError::Corrupt { .. }) => {
                self.around
                    .failure
                    .log_damaged(partition, &error.to_string());
            }
            BrokenReason::Storage(_) | BrokenReason::Breach(Breach::FlushFailed) => {
                self.around.failure.disk_failed(partition);
            }
            BrokenReason::Breach(Breach::TruncateBelowWatermark { .. }) => {}
        }
    }

    /// Says that the log lacks what was acknowledged, until the metadata says it too.
    pub(super) fn report_loss(&mut self) {
        let now = self.clock().now();
        let due = |at: Tick| now.since_ms(at) >= REPORT_AGAIN_MS;
        if self.driver.replica().log().lossy && self.loss_reported_at.is_none_or(due) {
            self.loss_reported_at = Some(now);
            self.control().report(Report::Suspect(self.id));
        }
    }

    /// Has the controller know why this replica cannot do its part, and when that is over.
    pub(super) fn report_trouble(&mut self) {
        let now = self.clock().now();
        let due = |at: Tick| now.since_ms(at) >= LOOK_AGAIN_MS;
        if !self.trouble_looked_at.is_none_or(due) {
            return;
        }
        self.trouble_looked_at = Some(now);
        let trouble = self.find_trouble();
        if trouble != self.trouble {
            let report = Report::Trouble(self.id, trouble.clone());
            self.control().report(report);
            self.trouble = trouble;
        }
    }

    fn find_trouble(&mut self) -> Option<String> {
        let replica = self.driver.replica();
        if replica.is_broken() {
            let text = "takes no part: its leader would have had it cut what was committed; the broker's log says more";
            return Some(text.to_owned());
        }
        if !replica.is_suspect() {
            self.damage = None;
        }
        if let Some(damage) = &self.damage {
            return Some(format!("found its log damaged: {damage}"));
        }
        let of = self.driver.lacks_room()?;
        Some(format!("has no {} ({})", of.what(), of.remedy()))
    }
}
