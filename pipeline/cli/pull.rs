//! `recaption pull ORG/NAME[@REVISION]`.

use super::args::PullArgs;
use crate::{pull, run::ExitCode, terminal::print};

/// Downloads a checkpoint and prints what is where.
pub(super) fn pull_model(args: &PullArgs) -> anyhow::Result<ExitCode> {
    let pulled = pull::pull(&args.model)?;
    if let Some(dir) = &args.dir {
        pull::copy_to(&pulled, dir)?;
    }
    print(&pull::summary(&args.model, &pulled, args.dir.as_deref()));
    Ok(ExitCode::Done)
}
