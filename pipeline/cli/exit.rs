//! Exit codes of errors that end the program.

use recaption_input::shards::ListError;
use recaption_store::StoreError;

use crate::{
    config::ConfigError,
    run::{ExitCode, Mismatch},
};

/// Returns code 2 for bad arguments and configuration, 1 for every other error.
pub(super) fn exit_code_of(error: &anyhow::Error) -> ExitCode {
    let usage = error.chain().any(|cause| {
        cause.is::<ConfigError>()
            || cause.is::<Mismatch>()
            || matches!(cause.downcast_ref::<StoreError>(), Some(StoreError::Url { .. }))
            || matches!(
                cause.downcast_ref::<ListError>(),
                Some(
                    ListError::Pattern { .. }
                        | ListError::NoMatch { .. }
                        | ListError::Collision(..)
                        | ListError::Ambiguous(_)
                ) | Some(ListError::Store(StoreError::Url { .. }))
            )
    });
    if usage { ExitCode::Usage } else { ExitCode::Failed }
}
