//! Nothing outside of the root is read.

use std::os::unix::fs::symlink;

use super::*;

/// A root with links in it, beside a secret.
fn places() -> (tempfile::TempDir, std::path::PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    write(outer.path(), "secret/secret.py", "def secret(): pass\n");
    write(outer.path(), "secret/ignore", "*.py\n");
    write(outer.path(), "root/src/open.py", "def open(): pass\n");
    let root = outer.path().join("root");
    symlink(outer.path().join("secret"), root.join("out_directory")).unwrap();
    symlink("../secret/secret.py", root.join("out_file.py")).unwrap();
    symlink("../../root", root.join("src/loop")).unwrap();
    symlink("src", root.join("in_directory")).unwrap();
    symlink("nowhere.py", root.join("dangling.py")).unwrap();
    (outer, root)
}

#[test]
fn a_walk_follows_no_link() {
    let (_outer, root) = places();
    let result = complexity(&engine(&root), json!({})).unwrap();
    assert_eq!(names(&result), ["open"]);
    assert_eq!(result["coverage"]["skipped"]["symlink"], 2);
    assert_eq!(result["coverage"]["files_matched"], 1);
}

#[test]
fn a_path_that_leads_outside_is_refused() {
    let (outer, root) = places();
    let engine = engine(&root);
    let absolute = outer.path().join("secret").display().to_string();
    for path in [
        "..",
        "../secret",
        "src/../../secret/secret.py",
        "out_directory",
        "out_directory/secret.py",
        "out_directory/absent.py",
        "out_file.py",
        "dangling.py",
        "src/loop/../../secret",
        "/",
        "/etc/passwd",
        absolute.as_str(),
    ] {
        let error = complexity(&engine, json!({ "path": path })).unwrap_err();
        assert_eq!(error.code(), "path_outside_root", "{path}");
        assert!(!error.message().contains("secret()"));
    }
}

#[test]
fn a_path_that_stays_inside_is_good_however_it_is_written() {
    let (_outer, root) = places();
    let engine = engine(&root);
    let absolute = engine.root().join("src").display().to_string();
    for path in
        [".", "", "src", "./src/", "src/../src/open.py", "in_directory", "src/loop/src", absolute.as_str()]
    {
        let result = complexity(&engine, json!({ "path": path })).unwrap();
        assert_eq!(names(&result), ["open"], "{path}");
        assert_eq!(result["functions"]["rows"][0][0], "src/open.py");
    }
}

#[test]
fn an_ignore_file_that_is_a_link_to_the_outside_is_not_read() {
    let (_outer, root) = places();
    symlink("../secret/ignore", root.join(".gitignore")).unwrap();
    let result = complexity(&engine(&root), json!({})).unwrap();
    assert_eq!(names(&result), ["open"]);
}

#[test]
fn a_file_that_turns_into_a_link_is_not_read() {
    let (_outer, root) = places();
    let confined = crate::analysis::confine::Root::open(&root).unwrap();
    assert!(confined.open_file(Path::new("src/open.py")).is_ok());
    assert!(confined.open_file(Path::new("out_file.py")).is_err());
    assert!(confined.open_file(Path::new("out_directory/secret.py")).is_err());
    assert!(confined.open_file(Path::new("in_directory/open.py")).is_err());
    assert!(confined.open_file(Path::new("../secret/secret.py")).is_err());
    assert!(confined.open_file(Path::new("src")).is_err());
}

#[test]
fn a_root_that_is_none_is_named() {
    let (_outer, root) = places();
    for path in [root.join("absent"), root.join("src/open.py")] {
        let message = Engine::new(&path, &Keys::generate(), clock()).err().unwrap();
        assert!(message.contains(path.to_str().unwrap()), "{message}");
    }
}

#[test]
fn a_missing_path_names_the_nearest() {
    let root = tempfile::tempdir().unwrap();
    for name in ["handler.py", "handles.py", "zebra.py", "Handle.py", "other.txt"] {
        write(root.path(), &format!("pkg/{name}"), "x = 1\n");
    }
    let engine = engine(root.path());
    let ask = json!({ "path": "pkg/handle.py" });
    let error = complexity(&engine, ask.clone()).unwrap_err();
    assert_eq!(error.code(), "not_found");
    assert_eq!(
        failure(&error, &ask)["nearest"],
        json!(["pkg/Handle.py", "pkg/handler.py", "pkg/handles.py"])
    );
    let error = complexity(&engine, json!({ "path": "pgk/handler.py" })).unwrap_err();
    assert!(error.message().contains("pkg"), "{error}");
    assert_eq!(complexity(&engine, json!({ "path": "a\0b" })).unwrap_err().code(), "invalid_argument");
}
