//! The cache as text.

use std::fmt::Write as _;
use std::time::Duration;

use kflash::obtain::cache::{Cache, Listed, Remembered, Swept, Why};
use kflash::obtain::provenance::{Built, Fetched, Origin, Provenance};
use kflash::timestamp::Timestamp;

use crate::render::line::bytes;
use crate::sheet::{Sheet, shown};

/// The first digits of a key: enough to name one of thousands.
const DIGITS: usize = 12;

/// The list of all images, the damaged ones below; `now` tells ages.
pub fn list(all: &[Listed], now: Timestamp) -> String {
    let head = ["KEY", "VERSION", "SIZE", "USED", "FROM", "BOARDS"].map(str::to_owned);
    let rows = all.iter().filter_map(|listed| {
        let provenance = listed.provenance.as_ref()?;
        Some([
            short(listed),
            format!("{} {}", shown(&provenance.app), shown(&provenance.version)),
            bytes(provenance.image.size),
            ago(now.since(listed.used)),
            origin(provenance),
            boards(provenance).join(", "),
        ])
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3, 4].map(width);
    let mut text = String::new();
    if rows.len() > 1 {
        for row in &rows {
            let columns = row.iter().zip(widths.into_iter().chain([0])).map(|(text, width)| format!("{text:<width$}"));
            let _ = writeln!(text, "{}", columns.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
    for damage in all.iter().filter_map(|listed| listed.damage.as_ref()) {
        let _ = writeln!(text, "{}", shown(&damage.to_string()));
    }
    text
}

/// All that is known of one image, and which of `devices` run it.
pub fn sheet(cache: &Cache, listed: &Listed, devices: &[Remembered]) -> String {
    let key = listed.key.map(|key| key.to_string()).unwrap_or_default();
    let mut sheet = Sheet::new(&key);
    if let Some(damage) = &listed.damage {
        sheet.line("damaged", &shown(&damage.to_string()));
    }
    let Some(provenance) = &listed.provenance else { return sheet.into_text() };
    sheet.line("firmware", &format!("{} {}", shown(&provenance.app), shown(&provenance.version)));
    sheet.line("mcu", &provenance.mcu.as_deref().map_or_else(|| "not stated".to_owned(), shown));
    if let Some(start) = provenance.start {
        sheet.line("start", &start.to_string());
    }
    sheet.gap();
    match &provenance.origin {
        Origin::Built(built) => from_build(&mut sheet, built),
        Origin::Fetched(fetched) => from_fetch(&mut sheet, fetched),
        Origin::File { path } => sheet.line("from file", &shown(path)),
    }
    sheet.line("on", &format!("{}, by kflash {}", provenance.time, shown(&provenance.kflash)));
    sheet.lines("for", boards_and_routes(provenance));
    let runs = devices.iter().filter(|device| {
        device.ran.last().is_some_and(|ran| match &ran.image {
            Some(image) => image.sha256 == provenance.image.sha256,
            None => ran.dictionary_sha256 == provenance.dictionary_sha256,
        })
    });
    sheet.lines(
        "runs on",
        runs.map(|device| match &device.device.serial {
            Some(serial) => format!("{}, serial {}", shown(&device.device.place), shown(serial)),
            None => shown(&device.device.place),
        }),
    );
    sheet.line("last used", &listed.used.to_string());
    sheet.gap();
    let path = cache.dir().join("images").join(&key).join(&provenance.image.name);
    sheet.line("file", &path.display().to_string());
    sheet.line("size", &bytes(provenance.image.size));
    sheet.line("sha256", &provenance.image.sha256.to_string());
    sheet.line("dictionary", &format!("sha256 {}", provenance.dictionary_sha256));
    sheet.into_text()
}

/// An image in a few words.
pub fn name(listed: &Listed) -> String {
    let key = listed.key.map(|key| key.to_string()).unwrap_or_default();
    match &listed.provenance {
        Some(provenance) => {
            let (app, version) = (shown(&provenance.app), shown(&provenance.version));
            format!("{key}  {app} {version} for {}", boards(provenance).join(", "))
        }
        None => format!("{key}  (damaged)"),
    }
}

/// What gc did, or would do.
pub fn swept(swept: &Swept, dry_run: bool) -> String {
    let mut text = String::new();
    let removed = if dry_run { "would remove" } else { "removed" };
    for each in &swept.removed {
        let why = match each.why {
            Why::Damaged => "damaged",
            Why::Unused => "not used for long",
            Why::Leftover => "left behind by a run that was killed",
        };
        let path = shown(&each.path.to_string_lossy());
        let _ = writeln!(text, "{removed} {path}  {}, {why}", bytes(each.bytes));
    }
    let freed: u64 = swept.removed.iter().map(|each| each.bytes).sum();
    let frees = if dry_run { "would free" } else { "freed" };
    let images = if swept.images_kept == 1 { "image stays" } else { "images stay" };
    let _ = writeln!(text, "{frees} {}; {} {images}", bytes(freed), swept.images_kept);
    text
}

fn from_build(sheet: &mut Sheet, built: &Built) {
    let dirty = if built.dirty { ", dirty" } else { "" };
    sheet.line("built from", &format!("{}, {}{dirty}", shown(&built.tree), shown(&built.describe)));
    if let Some(commit) = &built.commit {
        sheet.line("", &format!("commit {commit}"));
    }
    if let Some(sha256) = &built.tree_sha256 {
        sheet.line("", &format!("its files have sha256 {sha256}"));
    }
    let symbols: Vec<_> = built.requested.iter().map(|(symbol, value)| shown(&format!("{symbol}={value}"))).collect();
    sheet.lines("with", symbols.chunks(3).map(|line| line.join(" ")));
    sheet.line("", &format!("resolved configuration: sha256 {}", built.config_sha256));
    // gcc begins its version with its name, as and ld do not.
    let named = |(tool, version): (&String, &String)| match version.strip_prefix(tool.as_str()) {
        Some(rest) => shown(&format!("{tool}{rest}")),
        None => shown(&format!("{tool} {version}")),
    };
    sheet.lines("by", built.toolchain.iter().map(named));
}

fn from_fetch(sheet: &mut Sheet, fetched: &Fetched) {
    sheet.line("fetched from", &shown(&fetched.url));
    let signed = fetched.key_id.as_ref().map_or_else(|| "unsigned".into(), |id| format!("signed by {}", shown(id)));
    sheet.line("", &format!("version {} of {}, {signed}", shown(&fetched.version), shown(&fetched.index)));
    if let Some(commit) = &fetched.commit {
        sheet.line("", &format!("commit {}", shown(commit)));
    }
}

fn short(listed: &Listed) -> String {
    listed.key.map(|key| format!("{key:.DIGITS$}")).unwrap_or_default()
}

fn origin(provenance: &Provenance) -> String {
    match &provenance.origin {
        Origin::Built(built) if built.dirty => "a dirty tree",
        Origin::Built(_) => "a build",
        Origin::Fetched(fetched) if fetched.key_id.is_none() => "a fetch, unsigned",
        Origin::Fetched(_) => "a fetch",
        Origin::File { .. } => "a file",
    }
    .to_owned()
}

fn boards(provenance: &Provenance) -> Vec<String> {
    let mut boards: Vec<_> = provenance.boards.iter().map(|made_for| shown(&made_for.board.0)).collect();
    boards.dedup();
    boards
}

fn boards_and_routes(provenance: &Provenance) -> Vec<String> {
    let one = |made_for: &kflash::obtain::provenance::MadeFor| {
        let route = made_for.route.as_ref().map(|route| format!(", route {}", shown(route)));
        format!("{}{}", shown(&made_for.board.0), route.unwrap_or_default())
    };
    provenance.boards.iter().map(one).collect()
}

/// `3 days ago`
fn ago(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    let (number, unit) = match minutes {
        0 => return "just now".into(),
        1..60 => (minutes, "minute"),
        60..1440 => (minutes / 60, "hour"),
        _ => (minutes / 1440, "day"),
    };
    format!("{number} {unit}{} ago", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_well() {
        let said = [0, 59, 60, 7199, 7200, 86_399, 86_400, 200_000].map(|seconds| ago(Duration::from_secs(seconds)));
        let expected = [
            "just now",
            "just now",
            "1 minute ago",
            "1 hour ago",
            "2 hours ago",
            "23 hours ago",
            "1 day ago",
            "2 days ago",
        ];
        assert_eq!(said, expected);
    }
}
