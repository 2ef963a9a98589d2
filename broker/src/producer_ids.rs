//! Hands out ids to idempotent producers, from ranges that the controller reserves for this broker:
//! one round trip to the controller serves many producers.

use std::ops::Range;

use baton_protocol::admin::{AdminRequest, AdminResponse};
use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::ids::ProducerId;
use tokio::sync::Mutex;

use crate::actors::control_link::ControlLink;

/// Ids reserved at a time.
const RANGE: u32 = 1_000;

/// The ids that are left of the last reserved range.
#[derive(Default)]
pub struct ProducerIds {
    left: Mutex<Range<u64>>,
}

impl ProducerIds {
    /// An id that nobody has been given.
    pub async fn next(&self, control: &ControlLink) -> Result<ProducerId, WireError> {
        let mut left = self.left.lock().await;
        if let Some(id) = left.next() {
            return Ok(ProducerId(id));
        }
        match control
            .ask(AdminRequest::AllocateProducerIds { count: RANGE })
            .await?
        {
            AdminResponse::ProducerIds { first, count } => {
                *left = first + 1..first + u64::from(count);
                Ok(ProducerId(first))
            }
            other => {
                let text = format!("a request for producer ids was answered with {other:?}");
                Err(WireError::new(ErrorCode::Internal, text))
            }
        }
    }
}
