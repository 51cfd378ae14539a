//! `kflash detect` on a host with fifty boards.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kflash::board::{Cable, Profile};
use kflash::boards;
use kflash::chip::Chip;
use kflash::host::Host;
use kflash::system::SystemHost;
use kflash_sim::board::{Contents, VirtualBoard};
use kflash_sim::mount::descriptors::Identity;
use kflash_sim::mount::sysfs::{Parent, Tree};
use rustix::pipe::fcntl_setpipe_size;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{Figure, Report, median, programs, wire};

const BOARDS: usize = 50;
/// Every so many boards, one is in its ROM bootloader, where the chip has one.
const IN_ROM: usize = 5;
/// Ports of a hub.
const PORTS: usize = 7;
/// Processes of the host. A Raspberry Pi that runs Klipper has about so many, most of them the kernel's own...
const PROCESSES: usize = 200;
/// ... and of a process that is not, so many files are open.
const OPEN_FILES: usize = 16;
/// One process in so many is not the kernel's.
const NOT_OF_THE_KERNEL: usize = 4;
/// Runs for each one asked for: each takes milliseconds.
const RUNS: usize = 20;

/// A host with boards.
struct Room {
    root: tempfile::TempDir,
    /// What the boards' entries and ttys last as long as.
    boards: Vec<(Tree, OwnedFd)>,
}

pub fn measure(runs: usize) -> anyhow::Result<Report> {
    let kflash = programs::kflash()?;
    let room = Room::new()?;
    let host = SystemHost::new(room.root.path());
    let (mut scans, mut walls, mut peak) = (Vec::new(), Vec::new(), 0);
    let before = children_seconds()?;
    for _ in 0..runs * RUNS {
        let begun = Instant::now();
        let scan = host.scan()?;
        scans.push(begun.elapsed());
        ensure!(scan.devices.len() == BOARDS, "{} of {BOARDS} boards were found", scan.devices.len());
        walls.push(wall(&kflash, room.root.path())?);
    }
    let processor = (children_seconds()? - before) / (runs * RUNS) as f64;
    for _ in 0..runs {
        peak = peak_memory(&kflash, room.root.path())?.max(peak);
    }
    let ms = |times: Vec<Duration>| median(times).unwrap_or_default().as_secs_f64() * 1000.0;
    let figures = vec![
        Figure::new("kflash detect, whole process, wall time", ms(walls), "ms").at_most(10.0),
        Figure::new("kflash detect, whole process, peak memory", peak as f64 / 1_000_000.0, "MB").at_most(10.0),
        Figure::new("kflash detect, whole process, processor time", processor * 1000.0, "ms"),
        Figure::new("the library's scan of sysfs alone", ms(scans), "ms"),
    ];
    let method = format!(
        "{} boards behind hubs, in a folder that looks like /sys and /dev with them plugged in, and {PROCESSES} processes in its \
/proc, of which {} have {OPEN_FILES} files open each and the others, the kernel's, none: `kflash --host-root FOLDER detect`. Wall time from before the process is started \
until it has ended, median of {}; processor time is their mean, which a busy machine does not stretch as much; peak memory is VmHWM of /proc/PID/status when it prints its result, the largest of {runs}.",
        room.boards.len(),
        PROCESSES / NOT_OF_THE_KERNEL,
        runs * RUNS
    );
    Ok(Report { title: "detect, fifty boards", method, figures })
}

impl Room {
    fn new() -> anyhow::Result<Self> {
        let root = tempfile::tempdir()?;
        let mut known = boards::builtin()?;
        known.retain(|(profile, _)| profile.routes.iter().any(|route| route.cable == Cable::Usb));
        let mut boards = Vec::new();
        for (index, (profile, chip)) in known.iter().cycle().take(BOARDS).enumerate() {
            let identity = board(profile, chip, index)?;
            let port = format!("1-{}.{}", index / PORTS + 1, index % PORTS + 1).parse()?;
            let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
            grantpt(&pty)?;
            unlockpt(&pty)?;
            let slave = PathBuf::from(ptsname(&pty, Vec::new())?.into_string()?);
            let tty = identity.cdc().map(|_| format!("ttyACM{index}"));
            let mut tree = Tree::new(root.path().to_owned())?;
            tree.add(&port, Some(&Parent::Chip(identity)), tty.as_deref().map(|name| (name, slave.as_path())))?;
            boards.push((tree, pty));
        }
        processes(&root.path().join("proc"))?;
        Ok(Self { root, boards })
    }
}

/// A board as the USB shows it.
fn board(profile: &Profile, chip: &Chip, index: usize) -> anyhow::Result<Identity> {
    let route = profile.routes.iter().find(|route| route.cable == Cable::Usb).context("no route through USB")?;
    let bootloader = profile.bootloader_of(route).context("the route names no bootloader")?;
    let start = bootloader.app_start.0;
    let mut uid = *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36";
    uid[0] = index as u8;
    let contents = Contents {
        bootloader: bootloader.id.clone(),
        application: Some((start, wire::image(chip, start, Cable::Usb)?.build())),
        known: Vec::new(),
        uid,
    };
    let mut board = VirtualBoard::new(profile, chip, contents).map_err(anyhow::Error::msg)?;
    board.set_boot0(index.is_multiple_of(IN_ROM) && chip.rom_dfu.is_some());
    board.power(Duration::ZERO, true);
    board.advance(Duration::from_secs(2));
    board.usb().and_then(Identity::of).with_context(|| format!("{} shows no USB", profile.id))
}

/// What `/proc` is to who looks for holders.
fn processes(proc: &Path) -> io::Result<()> {
    for pid in 1..=PROCESSES {
        let process = proc.join(pid.to_string());
        fs::create_dir_all(process.join("fd"))?;
        fs::write(process.join("comm"), format!("process-{pid}\n"))?;
        if !pid.is_multiple_of(NOT_OF_THE_KERNEL) {
            continue;
        }
        for file in 0..OPEN_FILES {
            let target = match file {
                0..3 => "/dev/null".to_owned(),
                3..10 => format!("socket:[{}]", pid * OPEN_FILES + file),
                _ => "/etc/hostname".to_owned(),
            };
            symlink(target, process.join("fd").join(file.to_string()))?;
        }
    }
    Ok(())
}

fn detect(kflash: &Path, root: &Path) -> Command {
    let mut command = Command::new(kflash);
    command.arg("--host-root").arg(root).args(["detect", "--json"]);
    command
}

fn wall(kflash: &Path, root: &Path) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let status = detect(kflash, root).stdout(Stdio::null()).status()?;
    let time = begun.elapsed();
    ensure!(status.success(), "kflash detect: {status}");
    Ok(time)
}

/// The processor time of all processes that this one started and waited for, in user mode and the kernel (proc(5), `cutime` and
/// `cstime` of `/proc/PID/stat`).
fn children_seconds() -> anyhow::Result<f64> {
    /// USER_HZ is the same on every machine but Alphas.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may hold anything; fields 16 and 17 are 14 and 15 behind it, counted from the state, field 3.
    let (_, fields) = stat.rsplit_once(')').context("the status of this process has no name")?;
    let ticks: Vec<u64> = fields.split_whitespace().skip(13).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<u64>() as f64 / TICKS)
}

/// The most bytes that the process had in memory at once. It is caught while it prints: its result does not fit the pipe.
fn peak_memory(kflash: &Path, root: &Path) -> anyhow::Result<u64> {
    const PIPE: usize = 4096;
    let (output, input) = io::pipe()?;
    fcntl_setpipe_size(&input, PIPE)?;
    let mut child = detect(kflash, root).stdout(input).spawn()?;
    let mut output = File::from(OwnedFd::from(output));
    let mut result = vec![0];
    output.read_exact(&mut result)?;
    let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    output.read_to_end(&mut result)?;
    let ended = child.wait()?;
    ensure!(ended.success(), "kflash detect: {ended}");
    ensure!(result.len() > 2 * PIPE, "the result of {} bytes fits the pipe", result.len());
    // VmHWM:	    2048 kB
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .context("the process's status tells no VmHWM")?;
    Ok(kib * 1024)
}
