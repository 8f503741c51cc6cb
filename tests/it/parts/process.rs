//! A child process as a guard.
//!
//! Every child runs under `tests/parts/supervise.sh` in a process group of its own and holds the read end of a pipe
//! whose write end is here. Dropping the guard kills the group; if the test process dies without dropping anything
//! (Ctrl-C, `kill -9`, a time limit), the pipe closes and the supervisor kills the group. Children of children
//! (Node's, Python's) are in the group too.

use std::{
    ffi::OsStr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a part may take to come up on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How much of a log a failing test prints.
const TAIL_LINES: usize = 30;

/// A supervised command: add arguments and environment, then give it to [`Process::start`].
pub(crate) fn supervised(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(super::parts_dir().join("supervise.sh"));
    command.arg(program).stdin(Stdio::piped()).process_group(0);
    command
}

/// Sends a signal (`KILL`, `STOP`, ...) to every process of the group. One that is gone already is fine.
pub(crate) fn signal_group(leader: u32, signal: &str) {
    let script = format!("kill -s {signal} -- -{leader} 2>/dev/null");
    drop(Command::new("sh").args(["-c", &script]).status());
}

/// A running server with its log; killed on drop.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    /// Held open for as long as the child may live.
    _lifeline: Option<ChildStdin>,
    dir: Option<TempDir>,
    log: PathBuf,
}

impl Process {
    /// Starts `command` (from [`supervised`]) with both its outputs going to a log file.
    pub(crate) fn start(name: &str, command: Command) -> Self {
        Self::start_in(name, command, scratch_dir(name))
    }

    /// As [`Process::start`], in a folder that was prepared with files for it.
    pub(crate) fn start_in(name: &str, mut command: Command, dir: TempDir) -> Self {
        let log = dir.path().join(format!("{name}.log"));
        let open = || {
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(&log)
        };
        let (Ok(out), Ok(err)) = (open(), open()) else {
            panic!("cannot write {}", log.display());
        };
        let mut child = command
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let lifeline = child.stdin.take();
        Self {
            name: name.to_owned(),
            child,
            _lifeline: lifeline,
            dir: Some(dir),
            log,
        }
    }

    /// Waits until the log has a line that contains `marker` and returns what follows it on that line.
    ///
    /// # Panics
    /// When the process ends first, or takes longer than a minute.
    pub(crate) async fn wait_for_line(&mut self, marker: &str) -> String {
        let mut found = None;
        let name = self.name.clone();
        self.wait_until(&format!("{name} to print {marker:?}"), |process| {
            // Only whole lines: the last one may still be on its way.
            found = process
                .log()
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'))
                .find_map(|line| line.split_once(marker))
                .map(|(_, rest)| rest.trim().to_owned());
            std::future::ready(found.is_some())
        })
        .await;
        found.unwrap_or_default()
    }

    /// Polls `ready` until it says yes; the process must stay alive meanwhile.
    pub(crate) async fn wait_until<F>(&mut self, what: &str, mut ready: impl FnMut(&Self) -> F)
    where
        F: Future<Output = bool>,
    {
        let started = Instant::now();
        while !ready(self).await {
            if let Some(status) = self.ended() {
                panic!("waiting for {what}: {} ended, {status}", self.name);
            }
            assert!(
                started.elapsed() < START_LIMIT,
                "waited {START_LIMIT:?} for {what}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// What it has written so far, both outputs in order.
    pub(crate) fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Its folder: the log and whatever it was started with.
    pub(crate) fn dir(&self) -> &Path {
        self.dir
            .as_ref()
            .map(TempDir::path)
            .unwrap_or(Path::new("."))
    }

    /// Asks the command to end, as a kubelet does: SIGTERM to it alone, not to its group.
    pub(crate) fn terminate(&self) {
        let script = format!("kill -s TERM {}", self.child.id());
        drop(Command::new("sh").args(["-c", &script]).status());
    }

    /// Waits for its end: the exit code, or 128 and the signal that killed it.
    pub(crate) async fn wait(&mut self, limit: Duration) -> i32 {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status.code().unwrap_or(-1);
            }
            assert!(
                started.elapsed() < limit,
                "{} has not ended in {limit:?}",
                self.name
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops the group and returns when its every thread has noticed; `CONT` wakes it.
    pub(crate) async fn freeze(&self) {
        self.signal("STOP");
        let leader = self.child.id();
        let started = Instant::now();
        while !group_is_stopped(leader) {
            assert!(
                started.elapsed() < START_LIMIT,
                "{} does not stop",
                self.name
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Processor time of the command and all that it started, since its start.
    pub(crate) fn cpu_time(&self) -> Duration {
        // What `/proc` counts in, on every Linux that matters.
        const TICKS_A_SECOND: u64 = 100;
        let leader = self.child.id().to_string();
        let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let ticks = folders.filter_map(|folder| {
            let stat = std::fs::read_to_string(folder.path().join("stat")).ok()?;
            // From the state on; proc(5) counts it as the third.
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let of_ours = fields.get(2) == Some(&leader.as_str());
            let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
            of_ours.then_some(())?;
            Some(number(11)? + number(12)?)
        });
        Duration::from_millis(ticks.sum::<u64>() * 1_000 / TICKS_A_SECOND)
    }

    /// Sends a signal to the whole group: `CONT` wakes it, `KILL` is a crash.
    pub(crate) fn signal(&self, signal: &str) {
        signal_group(self.child.id(), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal("KILL");
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines
                .get(lines.len().saturating_sub(TAIL_LINES)..)
                .unwrap_or_default();
            eprintln!("-- {}, the end of its log:\n{}", self.name, tail.join("\n"));
            if let Some(dir) = self.dir.take() {
                eprintln!("-- {}: kept {}", self.name, dir.keep().display());
            }
        }
    }
}

/// Whether all threads of all processes of the group are stopped (`T`), by what `/proc` says.
fn group_is_stopped(leader: u32) -> bool {
    let folders = |path: PathBuf| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    // `pid (name) state ppid pgrp ...`; only the name can hold spaces and parentheses.
    let state_and_group = |path: &Path| -> Option<(String, u32)> {
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?.to_owned();
        Some((state, fields.nth(1)?.parse().ok()?))
    };
    folders(PathBuf::from("/proc"))
        .iter()
        .filter(|path| state_and_group(path).is_some_and(|(_, group)| group == leader))
        .flat_map(|path| folders(path.join("task")))
        .filter_map(|thread| state_and_group(&thread))
        .all(|(state, _)| state == "T" || state == "Z")
}

/// A fresh folder for a part's files, named after it.
pub(crate) fn scratch_dir(name: &str) -> TempDir {
    tempfile::Builder::new()
        .prefix(&format!("x402-{name}-"))
        .tempdir()
        .unwrap_or_else(|error| panic!("cannot make a temporary folder for {name}: {error}"))
}
