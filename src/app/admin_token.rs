//! The bearer token of the admin listener: made on the first start, kept in the data directory.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;

use crate::base::seal::random;

/// Its file in the data directory.
pub(crate) const FILE: &str = "admin.token";
/// A token that an operator wrote there must be at least this long; ours has 43 characters.
const LEAST: usize = 32;

/// The token of a data directory, made if there is none.
///
/// # Errors
/// The file cannot be read or written, or holds something that is no token.
pub(crate) fn load_or_create(data_dir: &Path) -> anyhow::Result<Arc<str>> {
    let path = data_dir.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return create(data_dir, &path).with_context(|| format!("{} cannot be written", path.display()));
        }
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
    };
    let token = text.trim();
    anyhow::ensure!(
        token.len() >= LEAST && token.bytes().all(|byte| byte.is_ascii_graphic()),
        "{} holds no token (at least {LEAST} characters without spaces): remove it, and a new one is made at the next start",
        path.display()
    );
    restrict(&path).with_context(|| format!("{}: its mode cannot be set to 0600", path.display()))?;
    Ok(token.into())
}

/// The token of a data directory that has one: what a caller must bear.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read(data_dir: &Path) -> anyhow::Result<SecretString> {
    let path = data_dir.join(FILE);
    let text = fs::read_to_string(&path).with_context(|| {
        format!("{} cannot be read: run this as the user of the server, or as root", path.display())
    })?;
    let token = text.trim();
    // It becomes part of a header.
    anyhow::ensure!(
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()),
        "{} holds no token: restart the server, which will say what to do",
        path.display()
    );
    Ok(token.into())
}

fn create(data_dir: &Path, path: &Path) -> std::io::Result<Arc<str>> {
    let token = URL_SAFE_NO_PAD.encode(random::<32>());
    // Written beside its place and renamed, so that a crash leaves no half of it.
    let beside = path.with_extension("token.new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(data_dir)?.sync_all()?;
    Ok(token.into())
}

fn restrict(path: &Path) -> std::io::Result<()> {
    let mut permissions = fs::metadata(path)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the admin token could be read by others; its mode is 0600 now");
        permissions.set_mode(0o600);
        fs::set_permissions(path, permissions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_token_is_made_once_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let token = load_or_create(dir.path()).unwrap();
        assert_eq!(token.len(), 43);
        assert_eq!(mode(&dir.path().join(FILE)), 0o600);
        assert_eq!(load_or_create(dir.path()).unwrap(), token);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_ne!(load_or_create(tempfile::tempdir().unwrap().path()).unwrap(), token);
    }

    #[test]
    fn a_token_that_others_could_read_is_closed_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        fs::write(&path, format!("{}\n", "x".repeat(40))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(*load_or_create(dir.path()).unwrap(), *"x".repeat(40));
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_file_without_a_token_is_refused_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "short", &"with spaces ".repeat(5)] {
            fs::write(dir.path().join(FILE), text).unwrap();
            let error = load_or_create(dir.path()).unwrap_err().to_string();
            assert!(error.contains("remove it"), "{error}");
        }
    }
}
