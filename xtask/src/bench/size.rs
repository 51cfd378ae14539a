//! The size of the static program.

use std::fs;

use super::programs::{build, kflash};
use super::{Figure, Report};

const MB: f64 = 1_000_000.0;

pub fn measure() -> anyhow::Result<Report> {
    // The usual build last: it is the one that stays.
    let without = fs::metadata(build("kflash-cli", "kflash", false)?)?.len();
    let with = fs::metadata(kflash()?)?.len();
    let figures = vec![
        Figure::new("kflash, static", with as f64 / MB, "MB").at_most(4.0),
        Figure::new("kflash, static, without --simulate (feature sim)", without as f64 / MB, "MB").at_most(4.0),
    ];
    let method =
        "The file that `cargo build --release --target x86_64-unknown-linux-musl -p kflash-cli` makes, stripped; \
the second with --no-default-features. A MB is 1000000 bytes."
            .into();
    Ok(Report { title: "The program", method, figures })
}
