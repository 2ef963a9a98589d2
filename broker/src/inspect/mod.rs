//! What operators can ask this broker about itself, and of what it has seen.

pub mod events;
mod quarantine;

use std::sync::Arc;

use baton_protocol::error::{ErrorCode, WireError};
use baton_protocol::inspect::{InspectRequest, InspectResponse};

use crate::shared::Shared;

/// Answers a question. May wait for the disk.
pub async fn answer(
    shared: Arc<Shared>,
    request: InspectRequest,
) -> Result<InspectResponse, WireError> {
    match request {
        InspectRequest::Configuration => {
            let settings = shared.config.settings.clone();
            Ok(InspectResponse::Configuration(settings))
        }
        InspectRequest::Events { after } => Ok(shared.events.after(after)),
        InspectRequest::Quarantine => {
            let listed = tokio::task::spawn_blocking(move || quarantine::list(&shared)).await;
            let failed = |text| WireError::new(ErrorCode::StorageFailed, text);
            match listed {
                Ok(Ok(all)) => Ok(InspectResponse::Quarantine(all)),
                Ok(Err(error)) => Err(failed(error.to_string())),
                Err(error) => Err(failed(format!("the quarantine cannot be listed: {error}"))),
            }
        }
    }
}
