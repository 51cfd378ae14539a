//! What may help where firmware cannot be built.

use kflash::obtain::build::BuildError;
use kflash::obtain::build::make::MakeError;
use kflash::obtain::build::tree::TreeError;

use super::cache;

/// What a person can do about a failed build.
pub fn build(error: &BuildError) -> Option<String> {
    match error {
        BuildError::Tree(error) => tree(error),
        BuildError::Cache(error) => cache(error),
        BuildError::Toolchain(error) => {
            let packages: Vec<_> = error.packages().into_iter().collect();
            (!packages.is_empty()).then(|| {
                let packages = packages.join(" ");
                format!("on Debian and its kin: `sudo apt install --no-install-recommends {packages}`")
            })
        }
        BuildError::Drift { .. } => Some(
            "`kflash build --board BOARD --menuconfig` opens the tree's own menu and prints what to --set; a tree that \
             is much older or newer may name things differently: --ref builds another version of it"
                .into(),
        ),
        BuildError::Make(MakeError::Path { .. }) => {
            Some("builds run in the cache: --cache-dir names a directory whose path make can take".into())
        }
        BuildError::Disproved { .. } => Some(
            "a symbol that was given with --set, or the board's profile, does not belong to this board or route: \
             `kflash boards BOARD` lists the routes, --show-config what is built"
                .into(),
        ),
        _ => None,
    }
}

/// What a person can do about a tree that cannot be built from.
pub fn tree(error: &TreeError) -> Option<String> {
    match error {
        TreeError::NoneOf(_) | TreeError::NotATree { .. } => Some(
            "--klipper names the directory of a tree; --git https://github.com/Klipper3d/klipper clones one into the \
             cache"
                .into(),
        ),
        TreeError::NoGit => Some("on Debian and its kin: `sudo apt install git`".into()),
        TreeError::Changed { .. } => Some("run this again once nobody writes to the tree".into()),
        _ => None,
    }
}
