//! The real binary as a process: on a free port, in a directory of its own, killed and reaped whatever happens.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::http::{Answer, Connection};
use super::{PATIENCE, soon};

/// A step of waiting for a process.
const STEP: Duration = Duration::from_millis(10);

/// `outlast` with these arguments in `dir`, in an environment without settings of the one who runs the tests.
pub fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
    command.args(args).current_dir(dir).env_clear().stdin(Stdio::null());
    for name in ["PATH", "LANG", "TMPDIR", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("HOME", dir).env("RUST_BACKTRACE", "1");
    command
}

/// Runs a command that must end by itself. One that does not is killed, and its status says so.
pub fn run(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (ended, watch) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if watch.recv_timeout(PATIENCE).is_err() {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = child.wait().unwrap();
    let _ = ended.send(());
    watchdog.join().unwrap();
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn drain<R: std::io::Read + Send + 'static>(source: Option<R>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut source) = source {
            let _ = source.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// A server that runs, or ran.
pub struct Server {
    child: Child,
    dir: Arc<TempDir>,
    args: Vec<String>,
    variables: Vec<(String, String)>,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    logs: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts a server on free ports with a new data directory and these further arguments.
    pub async fn start(args: &[&str]) -> Self {
        Self::start_in(&Arc::new(tempfile::tempdir().unwrap()), args, &[]).await
    }

    /// Starts a server in a directory that may hold files for it; its data is in `data` there.
    pub async fn start_in(dir: &Arc<TempDir>, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let owned = |text: &str| text.to_owned();
        let args: Vec<String> = args.iter().copied().map(owned).collect();
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| (owned(name), owned(value))).collect();
        let mut all = vec![owned("serve")];
        for (flag, value) in
            [("--listen", "127.0.0.1:0"), ("--admin-listen", "127.0.0.1:0"), ("--data-dir", "data")]
        {
            if !args.iter().any(|arg| arg == flag || arg.starts_with(&format!("{flag}="))) {
                all.extend([owned(flag), owned(value)]);
            }
        }
        all.extend(args);
        let mut command = Self::command_of(dir, &all, &variables);
        Self::spawn(Arc::clone(dir), &mut command, all, variables).await
    }

    /// Starts a server by a command of the test's own.
    pub async fn start_by(dir: &Arc<TempDir>, command: &mut Command) -> Self {
        Self::spawn(Arc::clone(dir), command, Vec::new(), Vec::new()).await
    }

    fn command_of(dir: &TempDir, args: &[String], variables: &[(String, String)]) -> Command {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = command(dir.path(), &args);
        if args.contains(&"--redis") {
            command.envs(crate::LINK.iter().copied());
        }
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command
    }

    async fn spawn(
        dir: Arc<TempDir>,
        command: &mut Command,
        args: Vec<String>,
        variables: Vec<(String, String)>,
    ) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let logs = Arc::new(Mutex::new(Vec::new()));
        let started = follow(&mut child, &logs);
        // Reaped from here on, even when it never says that it serves.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { child, dir, args, variables, address: nowhere, admin: None, logs };
        let line =
            soon("start line", tokio::task::spawn_blocking(move || started.recv_timeout(PATIENCE))).await;
        let line = line.unwrap().unwrap_or_else(|_| panic!("the server did not start"));
        server.address = address_after(&line, "serves MCP at http://").expect("an address");
        server.admin = address_after(&line, "admin: http://");
        server
    }

    /// The public listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("an admin listener")
    }

    /// Where it runs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where its data lives, unless its arguments said otherwise.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The token of the admin listener.
    pub fn admin_token(&self) -> String {
        std::fs::read_to_string(self.data_dir().join("admin.token")).unwrap().trim().to_owned()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Memory of the process that is its own, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// A new connection to the public listener.
    pub async fn connect(&self) -> Connection {
        Connection::open(self.address).await
    }

    /// One request on a connection of its own.
    pub async fn exchange(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.connect().await.exchange(method, path, headers, body).await
    }

    /// One request to the admin listener, with its token.
    pub async fn admin_exchange(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let authorization = format!("Bearer {}", self.admin_token());
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        Connection::open(self.admin()).await.exchange(method, path, &headers, body).await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it as a power cut of the process would, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and the status with which it ends.
    pub async fn term(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        soon("end of the server", async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(STEP).await;
            }
        })
        .await
    }

    /// Starts it again after it has ended: same data directory, same ports.
    pub async fn restart(&mut self) {
        assert!(self.child.try_wait().unwrap().is_some(), "end the server before it is restarted");
        let mut args = self.args.clone();
        let admin = self.admin.map(|address| address.to_string());
        for (flag, value) in [("--listen", Some(self.address.to_string())), ("--admin-listen", admin)] {
            let place = args.iter().position(|arg| arg == flag).map(|at| at + 1);
            if let (Some(value), Some(place)) = (value, place) {
                args[place] = value;
            }
        }
        let mut command = Self::command_of(&self.dir, &args, &self.variables);
        let earlier = self.logs.lock().unwrap().clone();
        let next = Self::spawn(Arc::clone(&self.dir), &mut command, args, self.variables.clone()).await;
        // The ended process stays with the value that is dropped here; its lines stay with the test.
        *self = next;
        self.logs.lock().unwrap().splice(0..0, earlier);
    }

    /// Everything it has said on stderr.
    pub fn logs(&self) -> String {
        self.logs.lock().unwrap().join("\n")
    }

    /// Waits until a line of the logs holds `text`, and returns that line.
    pub async fn wait_for_log(&self, text: &str) -> String {
        soon(text, async {
            loop {
                if let Some(line) = self.logs.lock().unwrap().iter().find(|line| line.contains(text)) {
                    return line.clone();
                }
                tokio::time::sleep(STEP).await;
            }
        })
        .await
    }
}

impl Drop for Server {
    #[expect(clippy::print_stderr, reason = "the test runner keeps it for the test that failed")]
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- the server said:\n{}\n---", self.logs());
        }
    }
}

/// Collects the lines of stderr and passes on the first that says where the server listens.
fn follow(child: &mut Child, logs: &Arc<Mutex<Vec<String>>>) -> Receiver<String> {
    let (started, line) = mpsc::channel();
    let stderr = child.stderr.take().unwrap();
    let logs = Arc::clone(logs);
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if line.contains("serves MCP at http://") {
                let _ = started.send(line.clone());
            }
            logs.lock().unwrap().push(line);
        }
    });
    line
}

fn address_after(line: &str, text: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(text)?;
    rest.split(['/', ' ', ')', ',', '"']).next()?.parse().ok()
}
