//! Several boards at once: what is the same is built once, and no core is idle while there is work.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use super::kconfig::Request;
use super::make::Workplace;
use super::prove::{Wanted, prove};
use super::toolchain::{Needs, Toolchain, ToolchainError};
use super::tree::{Snapshot, Tree};
use super::{BuildError, BuildEvent, Environment, Firmware, JobServer, Order, Resolved, Source};
use crate::board::BoardId;
use crate::digest::Sha256;
use crate::event::{Check, Verdict};
use crate::flash::Interrupt;
use crate::image::Image;
use crate::obtain::cache::{Cache, Entry, Key, Lookup};
use crate::obtain::provenance::{Built, Origin, Provenance};
use crate::timestamp::Timestamp;

/// Builds firmware.
#[derive(Clone, Copy, Debug)]
pub struct Builder<'a> {
    /// Where it is kept, and where it is built.
    pub cache: &'a Cache,
    /// What child processes see of the environment.
    pub environment: &'a Environment,
    /// Stops everything.
    pub interrupt: &'a Interrupt,
    /// Compilers that run at once.
    pub jobs: usize,
}

/// How the order of a board ended. Boards that need the same firmware fail together.
pub type Outcome = Result<Firmware, Arc<BuildError>>;

/// An order, and where it stands in the list of all.
type Numbered<'a> = (usize, &'a Order);

/// Orders for the same firmware.
struct Group<'a> {
    key: Key,
    built: Built,
    resolved: Resolved,
    /// A copy of the tree, where one was made to configure it.
    snapshot: Option<Snapshot>,
    cortex_m: bool,
    orders: Vec<Numbered<'a>>,
}

impl Builder<'_> {
    /// The firmware of each order, in the same order. What the cache holds is not built; one failure stops no other.
    pub fn build(&self, tree: &Tree, orders: &[Order], events: &mut dyn FnMut(BuildEvent)) -> Vec<Outcome> {
        let (sender, receiver) = mpsc::channel();
        let mut outcomes: Vec<_> = thread::scope(|scope| {
            let run = scope.spawn(move || self.run(tree, orders, &sender));
            receiver.into_iter().for_each(events);
            run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        outcomes.sort_by_key(|(at, _)| *at);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// The firmware of each order that the cache holds already, in the same order: no make runs. `None` where one would.
    pub fn cached(&self, tree: &Tree, orders: &[Order]) -> Vec<Result<Option<Firmware>, Arc<BuildError>>> {
        let mut toolchains = Toolchains::default();
        orders.iter().map(|order| self.cached_one(tree, order, &mut toolchains)).collect()
    }

    fn cached_one(
        &self,
        tree: &Tree,
        order: &Order,
        toolchains: &mut Toolchains,
    ) -> Result<Option<Firmware>, Arc<BuildError>> {
        let mut group = || -> Result<Option<Group<'_>>, BuildError> {
            let request = order.request()?;
            let Some(resolved) = self.resolved(tree, order, &request)? else { return Ok(None) };
            let toolchain = toolchains.find(&resolved.needs, self)?;
            Ok(Some(Group::new(tree, &request, resolved, &toolchain)))
        };
        let Some(group) = group()? else { return Ok(None) };
        let group = Group { orders: vec![(0, order)], ..group };
        match self.cache.find(&group.key).map_err(BuildError::from)? {
            Lookup::Found(entry) => {
                let delivered = self.deliver(&group, &entry, tree, &Source::Cache);
                delivered.into_iter().next().map(|(_, outcome)| outcome).transpose()
            }
            // What is damaged is built again.
            Lookup::Absent | Lookup::Damaged(_) => Ok(None),
        }
    }

    fn run(&self, tree: &Tree, orders: &[Order], events: &Sender<BuildEvent>) -> Vec<(usize, Outcome)> {
        let mut ended = Vec::new();
        let end = |outcomes: Vec<(usize, Outcome)>| {
            for (at, outcome) in &outcomes {
                let _ = events.send(BuildEvent::Ended { board: orders[*at].profile.id.clone(), well: outcome.is_ok() });
            }
            outcomes
        };

        let mut alike: BTreeMap<_, Vec<Numbered<'_>>> = BTreeMap::new();
        for (at, order) in orders.iter().enumerate() {
            match order.request() {
                Ok(request) => {
                    let asked = (request.symbols().clone(), order.chip.kconfig_formerly.clone());
                    alike.entry(asked).or_default().push((at, order));
                }
                Err(error) => ended.extend(end(failed(&[(at, order)], error))),
            }
        }
        let resolve = |orders: Vec<_>| {
            let resolved = self.resolve_for(tree, &orders, events);
            (orders, resolved)
        };
        let resolved = parallel(self.jobs, alike.into_values().collect(), resolve, || ());

        let mut toolchains = Toolchains::default();
        let mut groups: Vec<Group<'_>> = Vec::new();
        for (orders, resolved) in resolved {
            let group = resolved.and_then(|(request, resolved, snapshot)| {
                let toolchain = toolchains.find(&resolved.needs, self)?;
                Ok(Group { snapshot, ..Group::new(tree, &request, resolved, &toolchain) })
            });
            match group {
                Ok(group) => match groups.iter_mut().find(|other| other.key == group.key) {
                    Some(other) => other.orders.extend(orders),
                    None => groups.push(Group { orders, ..group }),
                },
                Err(error) => ended.extend(end(failed(&orders, error))),
            }
        }

        let mut missing = Vec::new();
        for group in groups {
            match self.find(&group.key, events) {
                Ok(Some(entry)) => ended.extend(end(self.deliver(&group, &entry, tree, &Source::Cache))),
                Ok(None) => missing.push(group),
                Err(error) => ended.extend(end(failed(&group.orders, error))),
            }
        }
        let workers = self.jobs.clamp(1, missing.len().max(1));
        match JobServer::new(self.jobs.saturating_sub(workers)) {
            Ok(jobs) => {
                let make = |mut group: Group<'_>| {
                    let outcomes = self.make(tree, &mut group, &jobs, events);
                    end(outcomes.unwrap_or_else(|error| failed(&group.orders, error)))
                };
                // With no build left for it, a worker leaves its job to the others' makes. Without it they are slower.
                let made = parallel(workers, missing, make, || drop(jobs.give()));
                ended.extend(made.into_iter().flatten());
            }
            Err(error) => {
                let orders: Vec<_> = missing.iter().flat_map(|group| group.orders.iter().copied()).collect();
                ended.extend(end(failed(&orders, BuildError::System(error))));
            }
        }
        ended
    }

    fn resolve_for(
        &self,
        tree: &Tree,
        orders: &[Numbered<'_>],
        events: &Sender<BuildEvent>,
    ) -> Result<(Request, Resolved, Option<Snapshot>), BuildError> {
        let Some((_, order)) = orders.first() else { return Err(BuildError::Interrupted) };
        let request = order.request()?;
        let asks = || drop(events.send(BuildEvent::Configuring { boards: boards(orders) }));
        let (resolved, snapshot) = self.resolve(tree, order, &request, asks)?;
        Ok((request, resolved, snapshot))
    }

    /// The image of a key, if the cache holds it whole.
    fn find(&self, key: &Key, events: &Sender<BuildEvent>) -> Result<Option<Entry>, BuildError> {
        match self.cache.find(key)? {
            Lookup::Found(entry) => Ok(Some(*entry)),
            Lookup::Absent => Ok(None),
            Lookup::Damaged(damage) => {
                let text = format!("{damage}; it is built again");
                let _ = events.send(BuildEvent::Warning { text });
                Ok(None)
            }
        }
    }

    /// Builds what the orders of a group have in common, and stores it if it is what one of them wants.
    fn make(
        &self,
        tree: &Tree,
        group: &mut Group<'_>,
        jobs: &JobServer,
        events: &Sender<BuildEvent>,
    ) -> Result<Vec<(usize, Outcome)>, BuildError> {
        let boards = boards(&group.orders);
        let mut told = false;
        let claim = self.cache.claim(&group.key, &mut |pid| {
            if !std::mem::replace(&mut told, true) {
                let _ = events.send(BuildEvent::Waiting { boards: boards.clone(), pid });
            }
            !self.interrupt.requested()
        })?;
        if claim.is_none() || self.interrupt.requested() {
            return Err(BuildError::Interrupted);
        }
        // Made meanwhile, between the first look and the claim.
        if let Lookup::Found(entry) = self.cache.find(&group.key)? {
            return Ok(self.deliver(group, &entry, tree, &Source::Cache));
        }

        let started = Instant::now();
        let Some(&(_, first)) = group.orders.first() else { return Ok(Vec::new()) };
        let log = self.log(first)?;
        let _ = events.send(BuildEvent::Building { boards: boards.clone(), log: log.clone() });
        // The copy that it was configured in does for building it.
        let snapshot = match group.snapshot.take() {
            Some(snapshot) => snapshot,
            None => self.snapshot(tree)?,
        };
        let made = self.workplace(&snapshot, &log).make(&group.resolved.config, jobs, |done, total| {
            let _ = events.send(BuildEvent::Progress { boards: boards.clone(), done, total });
        })?;
        let image = Image::parse(&made.image).map_err(|error| BuildError::NotAnImage {
            name: made.name,
            error,
            log: log.clone(),
        })?;

        let proved = group.orders.iter().map(|&(at, order)| {
            let checks = prove(&image, &made.dictionary, &group.wanted(order, tree));
            (at, order, checks)
        });
        let proofs: Vec<_> = proved.collect();
        let fitting: Vec<_> = proofs.iter().filter(|(.., checks)| agree(checks)).map(|(_, order, _)| *order).collect();
        let Some(fit) = fitting.first() else {
            let disproved = |(at, order, checks): (usize, &Order, _)| {
                (at, Err(Arc::new(BuildError::Disproved { board: order.profile.id.clone(), checks })))
            };
            return Ok(proofs.into_iter().map(disproved).collect());
        };
        let origin = Origin::Built(group.built.clone());
        let start = fit.profile.bootloader_of(&fit.route).map(|bootloader| bootloader.app_start);
        let made_for = fitting.iter().map(|order| order.made_for());
        let provenance = Provenance::of(&image, &made.image, origin, start, made_for, Timestamp::now())?;
        let entry = self.cache.store(&provenance, &made.image, Some(group.resolved.config.as_bytes()))?;
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(self.deliver(group, &entry, tree, &Source::Built { log, ms }))
    }

    /// The image of a group for each of its orders, if it is what that one wants.
    fn deliver(&self, group: &Group<'_>, entry: &Entry, tree: &Tree, source: &Source) -> Vec<(usize, Outcome)> {
        let deliver = |order: &Order| {
            let proof = prove(&entry.image, &entry.dictionary, &group.wanted(order, tree));
            let board = order.profile.id.clone();
            if !agree(&proof) {
                return Err(BuildError::Disproved { board, checks: proof });
            }
            let entry = self.cache.made_for(entry.clone(), &[order.made_for()])?;
            Ok(Firmware { board, route: order.route.id.clone(), entry, source: source.clone(), proof })
        };
        group.orders.iter().map(|&(at, order)| (at, deliver(order).map_err(Arc::new))).collect()
    }

    pub(super) fn snapshot(&self, tree: &Tree) -> Result<Snapshot, BuildError> {
        Ok(tree.snapshot(self.cache, self.environment, self.interrupt)?)
    }

    pub(super) fn workplace<'a>(&'a self, snapshot: &'a Snapshot, log: &'a Path) -> Workplace<'a> {
        Workplace { tree: snapshot.dir(), log, environment: self.environment, interrupt: self.interrupt }
    }

    /// Where the output of building an order is to be kept. The name was not given before.
    pub(super) fn log(&self, order: &Order) -> Result<PathBuf, BuildError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (seconds, pid) = (Timestamp::now().seconds(), std::process::id());
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(self.cache.logs()?.join(format!("{}-{seconds}-{pid}-{number}.log", order.profile.id)))
    }
}

impl Group<'_> {
    fn new(tree: &Tree, request: &Request, resolved: Resolved, toolchain: &Toolchain) -> Self {
        let built = Built {
            tree: tree.origin().unwrap_or(tree.place()).to_owned(),
            commit: tree.commit().map(str::to_owned),
            committed: tree.committed(),
            describe: tree.version().to_owned(),
            dirty: tree.sha256().is_some(),
            tree_sha256: tree.sha256(),
            requested: request.symbols().clone(),
            config_sha256: Sha256::of(resolved.config.as_bytes()),
            toolchain: toolchain.versions.clone(),
        };
        let cortex_m = toolchain.is_cortex_m();
        Self { key: Key::of_build(&built), built, resolved, snapshot: None, cortex_m, orders: Vec::new() }
    }

    fn wanted<'a>(&self, order: &'a Order, tree: &'a Tree) -> Wanted<'a> {
        Wanted {
            profile: &order.profile,
            chip: &order.chip,
            route: &order.route,
            cortex_m: self.cortex_m,
            version: tree.version(),
            unclean: tree.is_dirty() || tree.commit().is_none(),
        }
    }
}

/// Toolchains that were looked for already, found or not.
#[derive(Default)]
struct Toolchains(BTreeMap<Needs, Toolchain>);

impl Toolchains {
    fn find(&mut self, needs: &Needs, builder: &Builder<'_>) -> Result<Toolchain, ToolchainError> {
        if let Some(found) = self.0.get(needs) {
            return Ok(found.clone());
        }
        let found = needs.find(builder.environment, builder.interrupt)?;
        self.0.insert(needs.clone(), found.clone());
        Ok(found)
    }
}

fn agree(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.verdict == Verdict::Agrees)
}

fn boards(orders: &[Numbered<'_>]) -> Vec<BoardId> {
    let mut boards: Vec<_> = orders.iter().map(|(_, order)| order.profile.id.clone()).collect();
    boards.dedup();
    boards
}

fn failed(orders: &[Numbered<'_>], error: impl Into<BuildError>) -> Vec<(usize, Outcome)> {
    let error = Arc::new(error.into());
    orders.iter().map(|&(at, _)| (at, Err(Arc::clone(&error)))).collect()
}

/// Does `work` on each item, on as many threads; each calls `idle` when nothing is left for it.
fn parallel<T: Send, R: Send>(
    threads: usize,
    items: Vec<T>,
    work: impl Fn(T) -> R + Sync,
    idle: impl Fn() + Sync,
) -> Vec<R> {
    let threads = threads.clamp(1, items.len().max(1));
    let queue = Mutex::new(items.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let one = || {
        let done: Vec<_> = std::iter::from_fn(next).map(&work).collect();
        idle();
        done
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().flat_map(join).collect()
    })
}
