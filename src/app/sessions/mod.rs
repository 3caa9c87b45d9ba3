//! `outlast sessions` and `outlast status`: each a request or two to the admin listener, and how the answer is shown.

pub(super) mod args;
pub(super) mod show;

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, IF_MATCH};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use self::args::{Among, Export, Get, Import, Lock, Ls, Place, Sessions, Set, StatusArgs};
use super::operator::Operator;
use super::settings::Settings;
use super::{Failure, text};
use crate::base::limits::{IMPORT_BYTES, SESSIONS_PAGE};
use crate::base::percent::encode;
use crate::config::source::{Flag, Inputs};

/// Between two looks of `status --watch`.
const WATCH: Duration = Duration::from_secs(1);

/// `outlast sessions …`
pub(super) fn run(command: &Sessions) -> Result<(), Failure> {
    let mut desk = Desk::open(command.place())?;
    let done = match desk.run(command) {
        // Whoever reads has what was wanted.
        Err(Failure::Failed(error)) if error.is::<StdoutClosed>() => Ok(()),
        done => done,
    };
    let ended = desk.operator.end();
    done.and(ended)
}

/// Nobody reads what is printed any more.
#[derive(Debug, thiserror::Error)]
#[error("stdout was closed")]
pub(super) struct StdoutClosed;

/// `outlast status`
pub(super) fn status(args: &StatusArgs) -> Result<(), Failure> {
    if !args.watch {
        return status_once(&args.place);
    }
    loop {
        if !args.place.json {
            // From the top of a cleared screen.
            print("\u{1b}[2J\u{1b}[H")?;
        }
        // One that is not ready, or does not run, may be so in a second.
        if let Err(Failure::Failed(error)) = status_once(&args.place) {
            print(&format!("\n{error:#}\n"))?;
        }
        std::thread::sleep(WATCH);
    }
}

fn status_once(place: &Place) -> Result<(), Failure> {
    let mut desk = Desk::open(place)?;
    let asked = desk.ask(Method::GET, "/admin/status").told();
    let (data_dir, admin) = (desk.data_dir.clone(), desk.operator.address());
    desk.operator.end()?;
    let mut status = asked?;
    if let Some(fields) = status.as_object_mut() {
        fields.insert("running".to_owned(), admin.is_some().into());
        fields.insert("data_dir".to_owned(), data_dir.clone().into());
        fields.insert("admin".to_owned(), json!(admin.map(|address| format!("http://{address}"))));
    }
    print(&if place.json { show::json(&status) } else { show::status(&status) })?;
    if admin.is_none() {
        return Err(anyhow!("no server runs on {data_dir}").into());
    }
    match status.get("ready").and_then(Value::as_bool) {
        Some(true) => Ok(()),
        _ => Err(anyhow!("the server is not ready").into()),
    }
}

/// The operator at a data directory.
struct Desk {
    operator: Operator,
    data_dir: String,
    json: bool,
}

impl Desk {
    fn open(place: &Place) -> Result<Self, Failure> {
        let data_dir = place.data_dir.clone().map(|dir| Flag {
            name: "--data-dir",
            key: "store.data_dir",
            value: toml::Value::String(dir),
        });
        let inputs = Inputs::of_process(place.config.clone(), Vec::new(), data_dir.into_iter().collect())?;
        let config = Settings::new(inputs).load()?.config;
        let data_dir = config.store.data_dir.display().to_string();
        Ok(Self { operator: Operator::new(config), data_dir, json: place.json })
    }

    fn run(&mut self, command: &Sessions) -> Result<(), Failure> {
        match command {
            Sessions::Ls(args) => self.ls(args),
            Sessions::Create(args) => {
                let mut body = json!({});
                for (name, value) in [("principal", &args.principal), ("key", &args.key)] {
                    if let (Some(fields), Some(value)) = (body.as_object_mut(), value) {
                        fields.insert(name.to_owned(), value.as_str().into());
                    }
                }
                let told = self.ask(Method::POST, "/admin/sessions").json(&body).told()?;
                self.print(&told, show::created)
            }
            Sessions::Show(args) => {
                let told = self.ask(Method::GET, &of(&args.which.session)).told()?;
                self.print(&told, show::session)
            }
            Sessions::Get(args) => self.get(args),
            Sessions::Set(args) => self.set(args),
            Sessions::Rm(args) => {
                let told = match &args.name {
                    Some(name) => self
                        .ask(Method::DELETE, &value(&args.which.session, name))
                        .expecting(args.if_version.as_deref())
                        .told()?,
                    None => self.ask(Method::DELETE, &of(&args.which.session)).told()?,
                };
                self.print(&told, show::change)
            }
            Sessions::Ttl(args) => {
                let path = format!("{}/ttl", of(&args.which.session));
                let told = match args.extend {
                    Some(seconds) => {
                        self.ask(Method::POST, &path).json(&json!({ "extend_seconds": seconds })).told()?
                    }
                    None => self.ask(Method::GET, &path).told()?,
                };
                self.print(&told, show::ttl)
            }
            Sessions::Lock(lock) => self.lock(lock),
            Sessions::Conflicts(_) => self.conflicts(),
            Sessions::Export(args) => self.export(args),
            Sessions::Import(args) => self.import(args),
        }
    }

    /// Prints page by page: there may be a million.
    fn ls(&mut self, args: &Ls) -> Result<(), Failure> {
        let mut left = args.limit;
        let mut after = args.after.clone();
        let mut listed = 0_u64;
        let json = self.json;
        loop {
            let page = u64::try_from(SESSIONS_PAGE).unwrap_or(u64::MAX);
            let limit = left.map_or(page, |left| left.min(page));
            let mut path = format!("/admin/sessions?limit={limit}");
            for (name, text) in [("after", &after), ("principal", &args.principal)] {
                if let Some(text) = text {
                    path.push_str(&format!("&{name}={}", encode(text)));
                }
            }
            if let Some(seconds) = args.idle_over {
                path.push_str(&format!("&idle_over={seconds}"));
            }
            let told = self.ask(Method::GET, &path).told()?;
            let sessions = told.get("sessions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            match json {
                true => print(&show::json_rows(sessions, listed == 0))?,
                false => print(&show::sessions(sessions, listed == 0))?,
            }
            let count = u64::try_from(sessions.len()).unwrap_or(u64::MAX);
            listed += count;
            left = left.map(|left| left.saturating_sub(count));
            after = told.get("next").and_then(Value::as_str).map(str::to_owned);
            if after.is_none() || left == Some(0) {
                break;
            }
        }
        if json {
            print(if listed == 0 { "[]\n" } else { "\n]\n" })?;
        } else if listed == 0 {
            print("no sessions\n")?;
        }
        if let (Some(next), false) = (after, json) {
            let _ = writeln!(io::stderr().lock(), "outlast: there may be more: --after {next}");
        }
        Ok(())
    }

    /// Prints page by page: the values may be long.
    fn conflicts(&mut self) -> Result<(), Failure> {
        let (mut after, mut first) = (0, true);
        loop {
            let told = self.ask(Method::GET, &format!("/admin/conflicts?after={after}")).told()?;
            let rows = told.get("conflicts").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            match self.json {
                true => print(&show::json_rows(rows, first))?,
                false => print(&show::conflicts(rows, first))?,
            }
            first &= rows.is_empty();
            match told.get("next").and_then(Value::as_u64) {
                Some(next) => after = next,
                None if self.json => return print(if first { "[]\n" } else { "\n]\n" }),
                None if first => return print("no conflicts\n"),
                None => return Ok(()),
            }
        }
    }

    fn get(&mut self, args: &Get) -> Result<(), Failure> {
        let told = self.ask(Method::GET, &value(&args.which.session, &args.name)).told()?;
        if self.json {
            return self.print(&told, show::change);
        }
        let mut bytes = show::content(&told)?;
        if io::stdout().is_terminal() && !bytes.ends_with(b"\n") {
            bytes.push(b'\n');
        }
        print_bytes(&bytes)
    }

    fn set(&mut self, args: &Set) -> Result<(), Failure> {
        let content = match (&args.value, &args.file) {
            (Some(value), _) => Bytes::copy_from_slice(value.as_bytes()),
            (None, Some(file)) => read(file)?,
            (None, None) => return Err(Failure::Usage("which value? give it, or --file".to_owned())),
        };
        let mut path = value(&args.which.session, &args.name);
        if let (Some(lock), Some(fence)) = (&args.lock, args.fence) {
            path.push_str(&format!("?lock={}&fence={fence}", encode(lock)));
        }
        let told = self
            .ask(Method::PUT, &path)
            .expecting(args.expected.if_version.as_deref())
            .body(content)
            .told()?;
        self.print(&told, show::change)
    }

    fn lock(&mut self, lock: &Lock) -> Result<(), Failure> {
        let (name, body) = match lock {
            Lock::Show(args) => {
                let told = self.ask(Method::GET, &format!("/admin/locks/{}", encode(&args.name))).told()?;
                return self.print(&told, show::lock_state);
            }
            Lock::Take(args) => {
                let mut body = json!({ "action": "take", "ttl_seconds": args.ttl });
                let scope = args.scope.map(|among| match among {
                    Among::Global => "global",
                    Among::Instance => "instance",
                });
                for (name, value) in [("scope", scope), ("session", args.session.as_deref())] {
                    if let (Some(fields), Some(value)) = (body.as_object_mut(), value) {
                        fields.insert(name.to_owned(), value.into());
                    }
                }
                (&args.name, body)
            }
            Lock::Renew(args) => {
                (&args.name, json!({ "action": "renew", "ttl_seconds": args.ttl, "token": args.token }))
            }
            Lock::Release(args) => (&args.name, json!({ "action": "release", "token": args.token })),
        };
        let told = self.ask(Method::POST, &format!("/admin/locks/{}", encode(name))).json(&body).told()?;
        self.print(&told, show::lock)
    }

    fn export(&mut self, args: &Export) -> Result<(), Failure> {
        if args.output.is_none() && io::stdout().is_terminal() {
            return Err(Failure::Usage("an export is not text: give --output FILE, or a pipe".to_owned()));
        }
        // Before anything is asked, so that nothing is exported in vain.
        let file = args.output.as_deref().map(create).transpose()?;
        let exported = self.ask(Method::GET, &format!("{}/export", of(&args.which.session))).answer();
        let (Some(mut file), Some(path)) = (file, args.output.as_deref()) else {
            return print_bytes(&exported?);
        };
        let written = exported.and_then(|exported| {
            file.write_all(&exported)
                .and_then(|()| file.sync_all())
                .map_err(|error| cannot_write(path, error))?;
            Ok(exported.len())
        });
        if written.is_err() {
            // Half a file would only be found out at its import.
            let _ = std::fs::remove_file(path);
        }
        let bytes = written?;
        if self.json {
            return print(&show::json(&json!({ "file": path.display().to_string(), "bytes": bytes })));
        }
        let size = text::size(u64::try_from(bytes).unwrap_or(u64::MAX));
        print(&format!("{}: {size}, not encrypted: whoever reads it reads the session\n", path.display()))
    }

    fn import(&mut self, args: &Import) -> Result<(), Failure> {
        let file = read(&args.file)?;
        let path = format!("/admin/sessions/import?replace={}", args.replace);
        let told = self.ask(Method::POST, &path).body(file).told();
        // A file that is wrong is no wrong usage.
        let told = told.map_err(|failure| match failure {
            Failure::Usage(text) => Failure::Failed(anyhow!("{}: {text}", args.file.display())),
            failed @ Failure::Failed(_) => failed,
        })?;
        self.print(&told, show::imported)
    }

    fn print(&self, told: &Value, for_people: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        print(&if self.json { show::json(told) } else { for_people(told) })
    }

    fn ask(&mut self, method: Method, path: &str) -> Question<'_> {
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = method;
        let uri = path.parse().map(|uri| *request.uri_mut() = uri);
        let problem = uri.err().map(|error| Failure::Usage(format!("{path}: {error}")));
        Question { operator: &mut self.operator, request, problem }
    }
}

/// A request that is being put together.
struct Question<'a> {
    operator: &'a mut Operator,
    request: Request<Bytes>,
    problem: Option<Failure>,
}

impl Question<'_> {
    fn expecting(mut self, version: Option<&str>) -> Self {
        match version.map(http::HeaderValue::try_from) {
            Some(Ok(version)) => {
                self.request.headers_mut().insert(IF_MATCH, version);
            }
            Some(Err(_)) => {
                self.problem =
                    Some(Failure::Usage("--if-version: want a version as it was printed".to_owned()));
            }
            None => {}
        }
        self
    }

    fn body(mut self, body: Bytes) -> Self {
        *self.request.body_mut() = body;
        self
    }

    fn json(mut self, body: &Value) -> Self {
        let json = http::HeaderValue::from_static("application/json");
        self.request.headers_mut().insert(CONTENT_TYPE, json);
        self.body(Bytes::from(body.to_string()))
    }

    /// The body of an answer that says that all went well.
    fn answer(self) -> Result<Bytes, Failure> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let answer = self.operator.ask(&self.request)?;
        match answer.status() {
            status if status.is_success() => Ok(answer.into_body()),
            StatusCode::BAD_REQUEST => Err(Failure::Usage(sentence(answer.body()))),
            status => match sentence(answer.body()) {
                sentence if sentence.is_empty() => Err(anyhow!("the server answered {status}").into()),
                sentence => Err(Failure::Failed(anyhow!(sentence))),
            },
        }
    }

    fn told(self) -> Result<Value, Failure> {
        let body = self.answer()?;
        Ok(serde_json::from_slice(&body).context("the answer of the server is not JSON")?)
    }
}

/// What an error says.
pub(super) fn sentence(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = body.pointer("/error/message").and_then(Value::as_str);
    text::printable(message.unwrap_or_default()).into_owned()
}

fn of(session: &str) -> String {
    format!("/admin/sessions/{}", encode(session))
}

fn value(session: &str, name: &str) -> String {
    format!("{}/values/{}", of(session), encode(name))
}

/// A file of at most what can be imported; `-` is stdin.
fn read(path: &Path) -> Result<Bytes, Failure> {
    let most = u64::try_from(IMPORT_BYTES).unwrap_or(u64::MAX);
    let mut content = Vec::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().lock().take(most + 1).read_to_end(&mut content)
    } else {
        File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut content))
    };
    read.with_context(|| format!("{} cannot be read", path.display()))?;
    if content.len() > IMPORT_BYTES {
        return Err(anyhow!("{} is longer than {IMPORT_BYTES} bytes", path.display()).into());
    }
    Ok(content.into())
}

/// A new file for its owner's eyes only.
fn create(path: &Path) -> Result<File, Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::Failed(anyhow!("{} exists: name another file, or remove it", path.display()))
        }
        _ => cannot_write(path, error),
    })
}

fn cannot_write(path: &Path, error: io::Error) -> Failure {
    anyhow!(error).context(format!("{} cannot be written", path.display())).into()
}

pub(super) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => anyhow!(StdoutClosed).into(),
        _ => anyhow!(error).context("stdout").into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_stays_one_part_of_a_path() {
        let path = value("k", &"\u{10ffff}".repeat(1_000));
        assert!(path.parse::<http::Uri>().is_ok());
    }
}
