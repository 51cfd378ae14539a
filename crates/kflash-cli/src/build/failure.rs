//! Builds that fail, as failures of the command.

use kflash::event::Verdict;
use kflash::obtain::build::BuildError;
use kflash::obtain::build::make::MakeError;
use kflash::obtain::build::tree::TreeError;

use crate::failure::Failure;
use crate::hint;

impl From<&BuildError> for Failure {
    fn from(error: &BuildError) -> Self {
        let details = match error {
            BuildError::Drift { drifts, .. } => drifts.iter().map(ToString::to_string).collect(),
            BuildError::Make(MakeError::Failed { last, .. }) => last.clone(),
            BuildError::Disproved { checks, .. } => {
                let disagree = checks.iter().filter(|check| check.verdict == Verdict::Disagrees);
                disagree.map(|check| format!("{}: {}", check.name, check.evidence)).collect()
            }
            _ => Vec::new(),
        };
        Self { hint: hint::build::build(error), details, ..Self::new(error.exit(), error.summary()) }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self::from(&error)
    }
}

impl From<TreeError> for Failure {
    fn from(error: TreeError) -> Self {
        Self { hint: hint::build::tree(&error), ..Self::new(error.exit(), error.to_string()) }
    }
}
