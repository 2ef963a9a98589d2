//! A controller that has been outvoted and does not know: the others do not hear it, or it does not hear them.
//! Some brokers still have their sessions with it, and take its word for the controller's.

use baton_controller::core::ControllerCore;
use baton_protocol::ids::Tick;

use crate::cluster::World;
use crate::schedule::{FaultIndex, Reign};

/// It goes on as it was, but that nothing which it proposes is committed.
pub struct Former {
    pub core: ControllerCore,
    pub reign: Reign,
    /// By its own clock, when a majority still followed it.
    pub led_at: Tick,
    pub clock_ahead_ms: u64,
    /// It learns of it when this fault ends.
    until: FaultIndex,
}

impl World {
    /// The others have another controller, after a while.
    pub fn outvote_controller(&mut self, gap_ms: u64, until: FaultIndex) {
        self.end_former();
        let reign = self.controller.reign();
        let led_at = self.surely_led_at(reign);
        let core = self.controller.core.take();
        self.controller.former = core.map(|core| Former {
            core,
            reign,
            led_at,
            clock_ahead_ms: self.controller.clock_ahead_ms,
            until,
        });
        let mut sessions = self.succeed_controller(gap_ms);
        if self.controller.former.is_some() {
            let loyal = sessions.extract_if(.., |_| self.random.chance(500));
            self.controller.sessions.extend(loyal);
        }
        self.lose_sessions(sessions);
    }

    /// The former controller learns that there is another one, if this fault has kept it from that.
    pub fn tell_former(&mut self, fault: FaultIndex) {
        let former = self.controller.former.as_ref();
        if former.is_some_and(|former| former.until == fault) {
            self.end_former();
        }
    }

    pub fn end_former(&mut self) {
        if let Some(former) = self.controller.former.take() {
            let sessions = self.controller.sessions_of(former.reign);
            self.lose_sessions(sessions);
        }
    }
}
