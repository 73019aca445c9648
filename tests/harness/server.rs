//! A server process that cannot outlive the test process, however that one ends.
//!
//! Between the two stands a shell that waits for its standard input: a pipe only the test process holds. When the pipe
//! closes, because the server was dropped or because the test process is gone, the shell ends the server and removes
//! its folder.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const SUPERVISE: &str = r#"
folder=$1 signal=$2; shift 2
exec 2>>"$folder/server.log"
"$@" >&2 &
child=$!
echo $child
read -r word
kill -s "$signal" $child
wait $child
code=$?
[ "$word" = keep ] || rm -rf "$folder"
exit $code
"#;

/// How to run a server.
pub(crate) struct Launch<'a> {
    /// Where it lives; its output goes to `server.log` there.
    pub(crate) folder: &'a Path,
    /// The signal that ends it at once.
    pub(crate) signal: &'static str,
    /// What comes before the shell to run as somebody else.
    pub(crate) prefix: &'a [&'a str],
    /// The executable and its arguments.
    pub(crate) command: Vec<String>,
}

/// A running server.
pub(crate) struct Server {
    supervisor: Child,
    pid: u32,
}

impl Server {
    /// Starts it; it may not be ready yet.
    pub(crate) fn start(launch: Launch<'_>) -> Self {
        let folder = launch.folder.to_str().expect("a temporary folder has a plain name");
        let shell = ["sh", "-c", SUPERVISE, "supervise", folder, launch.signal];
        let mut words = launch.prefix.iter().copied().chain(shell).chain(launch.command.iter().map(String::as_str));
        let mut supervisor = Command::new(words.next().expect("there is a shell"))
            .args(words)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell starts");
        let mut pid = String::new();
        let told = supervisor.stdout.take().expect("its output is piped");
        BufReader::new(told).read_line(&mut pid).expect("the shell tells the process id");
        Self { pid: pid.trim().parse().expect("a process id"), supervisor }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends it at once, as a crash would, and keeps its folder. The exit code is the server's own if it had ended before.
    pub(crate) fn kill(mut self) -> Option<i32> {
        let pipe = self.supervisor.stdin.as_mut().expect("the pipe is ours until the end");
        pipe.write_all(b"keep\n").expect("the shell listens");
        self.supervisor.wait().expect("the shell ends").code()
    }

    /// Whether it has ended and only its exit code is left to be collected.
    pub(crate) fn has_ended(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        status.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z'))
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid.to_string()]).status().expect("kill is there");
        assert!(sent.success(), "no process {} to send {name} to", self.pid);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait(); // a failure here must not hide the test's own
    }
}

/// A new folder for a server; whoever runs the server there removes it.
pub(crate) fn folder(name: &str) -> PathBuf {
    tempfile::Builder::new().prefix(name).tempdir().expect("a temporary folder").keep()
}

/// A port nobody listens on at the moment. It is none of those the system gives to outgoing connections: one of these
/// could sit on the port of a server that was killed and is to come back.
pub(crate) fn free_port() -> u16 {
    let some = || 16_384 + uuid::Uuid::new_v4().as_fields().1 % 16_384;
    std::iter::repeat_with(some).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("one of many")
}

/// Whether the server complained that somebody else was faster to take its port.
pub(crate) fn lost_its_port(folder: &Path) -> bool {
    fs::read_to_string(folder.join("server.log")).unwrap_or_default().contains("Address already in use")
}

/// The first executable of that name in the search path or in one of the other folders.
pub(crate) fn executable(name: &str, others: &[PathBuf]) -> String {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).chain(others.iter().cloned()).map(|folder| folder.join(name));
    // Links stay as they are: some executables go by the name they are called.
    let found = { found }.find(|file| file.is_file());
    let found = found.unwrap_or_else(|| panic!("{name} is missing: apt-get install redis-server postgresql"));
    found.to_str().expect("a plain name").to_owned()
}
