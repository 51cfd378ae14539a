//! `kflash build`: eight boards in one run, against eight times make; and what the cache holds.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use kflash::boards;
use kflash::obtain::build::Order;
use tests::firmware_tree::{FirmwareTree, is_real};

use super::programs::kflash;
use super::{Figure, Report, median};

/// Boards of one run, each with firmware of its own.
const BOARDS: usize = 8;
/// Runs whose firmware is in the cache: they take no time.
const CACHED_RUNS: usize = 20;
/// 1.6 times as fast.
const GOAL: f64 = 1.0 / 1.6;

/// Runs of the builds themselves: with a real tree each takes minutes.
const MOST_RUNS: usize = 3;

pub fn measure(runs: usize) -> anyhow::Result<Report> {
    let program = kflash()?;
    let tree = FirmwareTree::new();
    let boards = distinct_boards()?;
    ensure!(boards.len() == BOARDS, "only {} boards need firmware of their own", boards.len());
    let root = tree.root.path();
    let kflash = |boards: &[String], cache: &Path| {
        let mut command = Command::new(&program);
        command.arg("build").arg("--klipper").arg(&tree.dir).arg("--cache-dir").arg(cache);
        command.args(boards.iter().flat_map(|board| ["--board", board]));
        command
    };

    let configs = boards.iter().map(|board| {
        let mut command = kflash(std::slice::from_ref(board), &root.join("configs"));
        let output = command.arg("--show-config").output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    });
    let configs: Vec<Vec<u8>> = configs.collect::<Result<_, _>>()?;

    let (mut cold, mut one_by_one) = (Vec::new(), Vec::new());
    for run in 0..runs.min(MOST_RUNS) {
        let start = Instant::now();
        quietly(&mut kflash(&boards, &root.join(format!("cache-{run}"))))?;
        cold.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        for config in &configs {
            fs::write(tree.dir.join(".config"), config)?;
            for goal in ["clean", "all"] {
                quietly(Command::new("make").arg(goal).current_dir(&tree.dir))?;
            }
        }
        one_by_one.push(start.elapsed().as_secs_f64());
        // As the tree was, for the next run and for those from the cache.
        quietly(Command::new("make").arg("clean").current_dir(&tree.dir))?;
        fs::remove_file(tree.dir.join(".config"))?;
    }
    let cached = |boards: &[String]| {
        let run = |_| {
            let start = Instant::now();
            quietly(&mut kflash(boards, &root.join("cache-0")))?;
            Ok(start.elapsed().as_secs_f64() * 1000.0)
        };
        median((0..CACHED_RUNS).map(run).collect::<anyhow::Result<_>>()?).context("no run")
    };
    let one_by_one = median(one_by_one).context("no run")?;
    let figures = vec![
        Figure::new("eight boards, none in the cache", median(cold).context("no run")?, "s")
            .against("make clean; make, eight times", one_by_one)
            .at_most(GOAL),
        Figure::new("one board, in the cache", cached(&boards[..1])?, "ms").at_most(50.0),
        Figure::new("eight boards, in the cache", cached(&boards)?, "ms"),
    ];
    let method = format!(
        "The static kflash and {}. Each build starts with an empty cache, so that the tree is copied and configured, too; \
         make runs in the tree itself, with the configuration ready, one job at a time. In turns; the median of {} and {} \
         runs. Cores: {}.",
        if is_real() { "the tree that KFLASH_TEST_KLIPPER names" } else { "the small tree of tests/firmware-tree" },
        runs.min(MOST_RUNS),
        CACHED_RUNS,
        std::thread::available_parallelism().map_or(1, usize::from),
    );
    Ok(Report { title: "Building", method, figures })
}

/// The first boards that need firmware of their own.
fn distinct_boards() -> anyhow::Result<Vec<String>> {
    let mut found: Vec<(String, _)> = Vec::new();
    for (profile, chip) in boards::builtin()? {
        let board = profile.id.to_string();
        let order = Order::new(profile, chip, None, Vec::new())?;
        let symbols = order.symbols()?;
        if found.iter().all(|(_, other)| *other != symbols) {
            found.push((board, symbols));
        }
    }
    Ok(found.into_iter().take(BOARDS).map(|(board, _)| board).collect())
}

fn quietly(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
