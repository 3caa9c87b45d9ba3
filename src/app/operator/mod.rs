//! Whom the command line asks about sessions and tools: the server that runs on the data directory, or, when none does, the
//! directory itself. Both are asked in the requests of the admin listener and answer in its words.

mod local;
mod remote;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use http::{Method, Request, Response};

use self::local::Local;
use self::remote::Remote;
use super::notice::Notice;
use super::{Failure, admin_token};
use crate::config::Config;
use crate::store::holder::{Holder, holder};

/// How long a server that starts or ends, or another command, is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const STEP: Duration = Duration::from_millis(50);

/// Whoever answers requests of the admin listener.
trait Ask {
    /// The answer, whatever its status.
    fn ask(&mut self, request: &Request<Bytes>) -> Result<Response<Bytes>, Trouble>;

    /// The answer to a request whose body goes on until somebody ends it, whatever its status.
    fn stream(&mut self, request: &Request<Bytes>) -> Result<Response<Lines>, Trouble>;

    /// Where it listens; `None`: it is this process.
    fn address(&self) -> Option<SocketAddr>;

    /// No more questions.
    fn end(self: Box<Self>) -> anyhow::Result<()>;
}

/// A body that is read as it comes.
pub(crate) type Lines = Box<dyn io::BufRead>;

/// Why there is no answer.
enum Trouble {
    /// Nothing was asked.
    Unreachable(io::Error),
    /// The question may have been heard, and done.
    Broken(io::Error),
}

/// A data directory, asked through whoever has it.
pub(crate) struct Operator {
    config: Config,
    asked: Option<Box<dyn Ask>>,
    /// Where no server can be asked, the hosts of tools are started here, instead of opening the directory.
    with_hosts: bool,
}

impl Operator {
    /// An operator of the data directory that `config` names.
    pub(crate) fn new(config: Config) -> Self {
        Self { config, asked: None, with_hosts: false }
    }

    /// An operator of the tools that `config` has: those of the server that runs on its data directory, else its own.
    pub(crate) fn of_tools(config: Config) -> Self {
        Self { config, asked: None, with_hosts: true }
    }

    /// The answer to a request of the admin listener. When the server goes away before it has heard the question, or
    /// when the question changes nothing, it is put again to whoever has the directory then.
    pub(crate) fn ask(&mut self, request: &Request<Bytes>) -> Result<Response<Bytes>, Failure> {
        let mut patience = Patience::default();
        loop {
            let asked = match &mut self.asked {
                Some(asked) => asked,
                None => self.asked.insert(self.find(&mut patience)?),
            };
            let trouble = match asked.ask(request) {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            self.asked = None;
            match trouble {
                Trouble::Broken(error) if *request.method() != Method::GET => {
                    let error = anyhow!(error).context(
                        "the server went away before it answered: whether the change was made is not known; look, and ask again",
                    );
                    return Err(error.into());
                }
                Trouble::Unreachable(error) | Trouble::Broken(error) => {
                    patience.wait().map_err(|()| anyhow!(error).context(self.deaf()))?;
                }
            }
        }
    }

    /// The answer to a request of the admin listener that goes on until it is dropped. A server that is just starting is
    /// waited for; one that ends meanwhile ends the answer.
    pub(crate) fn stream(&mut self, request: &Request<Bytes>) -> Result<Response<Lines>, Failure> {
        let mut patience = Patience::default();
        loop {
            let asked = match &mut self.asked {
                Some(asked) => asked,
                None => self.asked.insert(self.find(&mut patience)?),
            };
            match asked.stream(request) {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Unreachable(error) | Trouble::Broken(error)) => {
                    self.asked = None;
                    patience.wait().map_err(|()| anyhow!(error).context(self.deaf()))?;
                }
            }
        }
    }

    /// The admin listener of the server that was asked last; `None`: no server runs.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.asked.as_ref().and_then(|asked| asked.address())
    }

    /// No more questions: what was opened is closed.
    pub(crate) fn end(self) -> Result<(), Failure> {
        self.asked.map_or(Ok(()), |asked| asked.end().map_err(Failure::from))
    }

    fn deaf(&self) -> String {
        format!(
            "the server on {} does not answer on its admin listener; it may be ending: try again",
            self.config.store.data_dir.display()
        )
    }

    /// Who is to be asked at this moment.
    fn find(&self, patience: &mut Patience) -> Result<Box<dyn Ask>, Failure> {
        let dir = &*self.config.store.data_dir;
        let own_hosts = || Local::with_hosts(&self.config).map(|local| Box::new(local) as Box<dyn Ask>);
        if self.with_hosts && dir.as_os_str().is_empty() {
            return own_hosts();
        }
        if dir.as_os_str().is_empty() {
            return Err(Failure::Usage(
                "the configuration keeps nothing on disk (store.ephemeral): name a data directory with --data-dir"
                    .into(),
            ));
        }
        loop {
            let held = holder(dir).map_err(|error| unreadable(dir, error))?;
            let notice = Notice::read(dir).map_err(|error| unreadable(dir, error))?;
            let server = match held {
                Holder::Process(pid) => notice.filter(|notice| pid == Some(notice.pid)),
                Holder::Nobody => notice.filter(|notice| notice.ephemeral && lives(notice.pid)),
            };
            match (server, held) {
                (Some(Notice { address: Some(address), .. }), _) => {
                    let token = admin_token::read(dir)?;
                    return Ok(Box::new(Remote { address, token }));
                }
                (Some(_), _) | (None, Holder::Nobody) if self.with_hosts => return own_hosts(),
                (Some(Notice { pid, .. }), _) => {
                    return Err(anyhow!(
                        "{}: the server on it (process {pid}) has no admin listener: set admin.listen, or stop the server",
                        dir.display()
                    )
                    .into());
                }
                (None, Holder::Nobody) => match Local::open(&self.config) {
                    Ok(local) => return Ok(Box::new(local)),
                    // Somebody took it in between.
                    Err(failure) => match holder(dir) {
                        Ok(Holder::Process(_)) if patience.wait().is_ok() => {}
                        _ => return Err(failure),
                    },
                },
                (None, Holder::Process(pid)) => patience.wait().map_err(|()| in_use(dir, pid))?,
            }
        }
    }
}

fn in_use(dir: &Path, pid: Option<u32>) -> anyhow::Error {
    let by = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    anyhow!(
        "{} is in use by {by}, which is not a server that can be asked: it is starting or ending, or it is another \
         command: try again when it is done",
        dir.display()
    )
}

fn unreadable(dir: &Path, error: io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => ": run this as the user of the server, or as root",
        _ => "",
    };
    let context = format!("the data directory {} cannot be read{advice}", dir.display());
    anyhow!(error).context(context)
}

/// Whether there is a process of this id.
fn lives(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // Another user's process is one, too.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Waits in steps, and not for ever.
#[derive(Default)]
struct Patience {
    waited: Duration,
}

impl Patience {
    fn wait(&mut self) -> Result<(), ()> {
        if self.waited >= PATIENCE {
            return Err(());
        }
        std::thread::sleep(STEP);
        self.waited += STEP;
        Ok(())
    }
}
