//! `kflash status` on a host with twenty boards.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kflash::board::Cable;
use kflash::boards;
use serde_json::Value;
use tests::firmware_tree::FirmwareTree;
use tests::room::Room;

use super::{Figure, Report, median, programs};

const BOARDS: usize = 20;

pub fn measure(runs: usize) -> anyhow::Result<Report> {
    let kflash = programs::kflash()?;
    let tree = FirmwareTree::new();
    let (room, kinds) = room()?;
    let home = room.root.path();
    let file = home.join("klipper.bin");
    fs::write(&file, Room::image(&kinds[0]).build())?;

    let mut compared = Vec::new();
    for _ in 0..runs {
        let (time, verdicts) = status(&kflash, home, &[Path::new("--firmware"), &file])?;
        ensure!(verdicts.values().sum::<usize>() == BOARDS, "{verdicts:?}");
        compared.push(time);
    }
    // From now on twenty boards of a configuration, and a tree whose firmware for them is in the cache.
    configure(home, &tree, &kinds)?;
    let (cold, verdicts) = status(&kflash, home, &[])?;
    ensure!(verdicts.get("must-flash") == Some(&BOARDS), "{verdicts:?}");
    let mut cached = Vec::new();
    for _ in 0..runs {
        cached.push(status(&kflash, home, &[])?.0);
    }
    let ms = |times: Vec<Duration>| median(times).unwrap_or_default().as_secs_f64() * 1000.0;
    let mut distinct = kinds.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let figures = vec![
        Figure::new("kflash status --firmware, whole process, wall time", ms(compared), "ms"),
        Figure::new("kflash status of a configuration, dictionaries in the cache, wall time", ms(cached), "ms"),
        Figure::new("the same, when it has to build them first", cold.as_secs_f64() * 1000.0, "ms"),
    ];
    let method = format!(
        "{BOARDS} boards of {} kinds on ptys, served by the simulator in this process, in a folder that looks like /sys and /dev \
with them plugged in: `kflash --host-root FOLDER status`, wall time from before the process is started until it has ended, median \
of {runs}. Each board's dictionary is read over its wire, compressed as real ones of that length are. The tree is the one of \
`tests/firmware-tree`; in the cache means that no make ran, but git and the compilers were asked for their versions.",
        distinct.len()
    );
    Ok(Report { title: "status, twenty boards", method, figures })
}

/// Twenty boards on USB, and what each is.
fn room() -> anyhow::Result<(Room, Vec<String>)> {
    let known = boards::builtin()?;
    let on_usb = |(profile, chip): &&(kflash::board::Profile, kflash::chip::Chip)| {
        let first = profile.routes.first().map(|route| (route.cable, route.bootloader.as_str()));
        // The simulator's pty has the first of the bootloaders behind the chip's USB.
        first == profile.bootloaders.first().map(|it| (Cable::Usb, it.id.as_str())) && !chip.runs_from_ram
    };
    let kinds: Vec<_> = known.iter().filter(on_usb).map(|(profile, _)| profile.id.to_string()).collect();
    let kinds: Vec<_> = kinds.iter().cycle().take(BOARDS).cloned().collect();
    let mut room = Room::new();
    for kind in &kinds {
        room.plug(kind, Room::image(kind).build());
    }
    Ok((room, kinds))
}

fn configure(home: &Path, tree: &FirmwareTree, kinds: &[String]) -> anyhow::Result<()> {
    let folder = home.join(".config/kflash");
    fs::create_dir_all(&folder)?;
    let mut text = format!("klipper = \"{}\"\n[[printers]]\nname = \"farm\"\n", tree.dir.display());
    for (index, kind) in kinds.iter().enumerate() {
        let port = index + 1;
        write!(text, "[[printers.boards]]\nname = \"b{port}\"\nboard = \"{kind}\"\ndevice = [\"1-{port}\"]\n")?;
    }
    Ok(fs::write(folder.join("config.toml"), text)?)
}

/// One run: its time, and how many boards got which verdict.
fn status(kflash: &Path, home: &Path, arguments: &[&Path]) -> anyhow::Result<(Duration, BTreeMap<String, usize>)> {
    let mut command = Command::new(kflash);
    command.arg("--host-root").arg(home).args(["status", "--json"]).args(arguments).env("HOME", home);
    command.env_remove("XDG_CACHE_HOME").env_remove("XDG_CONFIG_HOME").stdin(Stdio::null()).stderr(Stdio::inherit());
    let begun = Instant::now();
    let output = command.output()?;
    let time = begun.elapsed();
    let text = String::from_utf8(output.stdout)?;
    let result: Value = serde_json::from_str(text.lines().last().context("nothing was printed")?)?;
    ensure!(output.status.success(), "kflash status: {}: {result}", output.status);
    let mut verdicts = BTreeMap::new();
    for board in result["boards"].as_array().context("no boards")? {
        *verdicts.entry(board["verdict"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    Ok((time, verdicts))
}
