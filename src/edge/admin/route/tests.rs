//! Paths, methods and bodies of admin requests.

use super::*;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODw";

fn find(method: &str, uri: &str) -> Result<Route, u16> {
    let (parts, ()) = http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
    Route::find(&parts).map_err(|refusal| refusal.into_response().status().as_u16())
}

#[test]
fn every_path_says_which_methods_it_takes() {
    for (method, path, outcome) in [
        ("GET", "/admin/status", Ok("status")),
        ("POST", "/admin/status", Err(405)),
        ("GET", "/admin/broadcast", Err(405)),
        ("POST", "/admin/keys/rotate", Ok("rotate")),
        ("GET", "/admin/keys/rotate", Err(405)),
        ("POST", "/admin/keys", Err(404)),
        ("POST", "/admin/send?sid=s1.x", Ok("send")),
        ("POST", "/admin/send", Err(400)),
        ("POST", "/admin/send?sid=", Err(400)),
        ("POST", "/admin/publish?topic=a/b", Ok("publish")),
        ("GET", "/admin/publish?topic=a/b", Err(405)),
        ("POST", "/admin/publish", Err(400)),
        ("GET", "/admin/tail?topic=a/%23", Ok("tail")),
        ("GET", "/admin/tail?topic=", Err(400)),
        ("POST", "/admin/tail?topic=a", Err(405)),
        ("GET", "/admin/sessions", Ok("list")),
        ("POST", "/admin/sessions", Ok("create")),
        ("DELETE", "/admin/sessions", Err(405)),
        ("GET", "/admin/sessions/KEY", Ok("inspect")),
        ("DELETE", "/admin/sessions/KEY", Ok("end")),
        ("PUT", "/admin/sessions/KEY", Err(405)),
        ("GET", "/admin/sessions/KEY/values/a", Ok("value")),
        ("PUT", "/admin/sessions/KEY/values/a", Ok("set")),
        ("PUT", "/admin/sessions/KEY/values/a?lock=l&fence=7", Ok("set")),
        ("PUT", "/admin/sessions/KEY/values/a?lock=l", Err(400)),
        ("PUT", "/admin/sessions/KEY/values/a?fence=7", Err(400)),
        ("PUT", "/admin/sessions/KEY/values/a?lock=l&fence=-7", Err(400)),
        ("DELETE", "/admin/sessions/KEY/values/a", Ok("remove")),
        ("POST", "/admin/sessions/KEY/values/a", Err(405)),
        ("GET", "/admin/sessions/KEY/values/", Err(400)),
        ("GET", "/admin/sessions/KEY/values/%zz", Err(400)),
        ("GET", "/admin/sessions/KEY/values/%ff", Err(400)),
        ("GET", "/admin/sessions/KEY/values/%00", Err(400)),
        ("GET", "/admin/sessions/KEY/values", Err(404)),
        ("GET", "/admin/sessions/KEY/ttl", Ok("ttl")),
        ("POST", "/admin/sessions/KEY/ttl", Ok("extend")),
        ("GET", "/admin/sessions/KEY/export", Ok("export")),
        ("POST", "/admin/sessions/import", Ok("import")),
        ("POST", "/admin/sessions/import?replace=yes", Err(400)),
        ("GET", "/admin/conflicts", Ok("conflicts")),
        ("GET", "/admin/conflicts?after=7&limit=1000", Ok("conflicts")),
        ("GET", "/admin/conflicts?after=x", Err(400)),
        ("GET", "/admin/conflicts?limit=0", Err(400)),
        ("POST", "/admin/conflicts", Err(405)),
        ("GET", "/admin/cache", Ok("cache")),
        ("GET", "/admin/cache?tool=a", Err(400)),
        ("POST", "/admin/cache", Err(405)),
        ("DELETE", "/admin/cache", Ok("cache_clear")),
        ("DELETE", "/admin/cache?tool=a", Ok("cache_clear")),
        ("DELETE", "/admin/cache?tag=a%20b", Ok("cache_clear")),
        ("DELETE", "/admin/cache?tag=", Err(400)),
        ("DELETE", "/admin/cache?tag=a&tool=b", Err(400)),
        ("GET", "/admin/cache/entries?tag=a&limit=7", Ok("cache_entries")),
        ("GET", "/admin/cache/entries?limit=0", Err(400)),
        ("DELETE", "/admin/cache/entries", Err(405)),
        ("GET", "/admin/servers", Ok("servers")),
        ("POST", "/admin/servers", Err(405)),
        ("GET", "/admin/tools", Ok("tools")),
        ("GET", "/admin/tools/a", Ok("tool")),
        ("GET", "/admin/tools/", Err(400)),
        ("POST", "/admin/tools/a/call", Ok("call")),
        ("GET", "/admin/tools/a/call", Err(405)),
        ("POST", "/admin/tools/a/run", Err(404)),
        ("POST", "/admin/locks/a%2Fb", Ok("lock")),
        ("GET", "/admin/locks/a", Ok("lock")),
        ("DELETE", "/admin/locks/a", Err(405)),
        ("GET", "/admin/locks", Ok("locks")),
        ("POST", "/admin/locks", Err(405)),
        ("POST", "/admin/locks/", Err(400)),
        ("GET", "/admin/sessions//ttl", Err(400)),
        ("GET", "/admin", Err(404)),
        ("GET", "/mcp", Err(404)),
    ] {
        let found = find(method, path);
        assert_eq!(found.as_ref().map(Route::name).map_err(|status| *status), outcome, "{method} {path}");
    }
}

#[test]
fn a_list_has_filters_within_bounds() {
    let filter = |query: &str| match find("GET", &format!("/admin/sessions?{query}")) {
        Ok(Route::Command(Command::List(filter))) => Ok(filter),
        Ok(other) => panic!("{other:?}"),
        Err(status) => Err(status),
    };
    let found = filter(&format!("after={KEY}&limit=7&principal=a%20b&idle_over=60")).unwrap();
    assert_eq!(found.after, SessionKey::parse(KEY));
    assert_eq!((found.limit, found.principal.as_deref(), found.idle_over_ms), (7, Some("a b"), Some(60_000)));
    assert_eq!(filter("").unwrap().limit, SESSION_PAGE);
    for bad in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "after=x",
        "idle_over=-1",
        "idle_over=1m",
        "limt=1",
        "limit=1&limit=2",
        "principal=%",
    ] {
        assert_eq!(filter(bad), Err(400), "{bad}");
    }
}

#[test]
fn bodies_say_what_to_do_with_a_lock() {
    let take = |scope, session| LockAct::Take { ttl_ms: 3_000, scope, session };
    assert_eq!(lock(br#"{"action":"take","ttl_seconds":3}"#).unwrap(), take(None, None));
    for (scope, name) in [(Scope::Global, "global"), (Scope::Instance, "instance")] {
        let body = format!(r#"{{"action":"take","ttl_seconds":3,"scope":"{name}","session":"k"}}"#);
        assert_eq!(lock(body.as_bytes()).unwrap(), take(Some(scope), Some("k".into())));
    }
    let renew = lock(br#"{"action":"renew","ttl_seconds":3,"token":"t"}"#).unwrap();
    assert_eq!(renew, LockAct::Renew { token: "t".into(), ttl_ms: 3_000 });
    let release = lock(br#"{"action":"release","token":"t"}"#).unwrap();
    assert_eq!(release, LockAct::Release { token: "t".into() });
    for bad in [
        "",
        "{}",
        r#"{"action":"take"}"#,
        r#"{"action":"take","ttl_seconds":0}"#,
        r#"{"action":"steal"}"#,
        r#"{"action":"take","ttl_seconds":3,"token":"t"}"#,
        r#"{"action":"renew","ttl_seconds":3}"#,
        r#"{"action":"release"}"#,
        r#"{"action":"take","ttl_seconds":3,"more":1}"#,
        r#"{"action":"take","ttl_seconds":3,"scope":"world"}"#,
        r#"{"action":"renew","ttl_seconds":3,"token":"t","scope":"global"}"#,
        r#"{"action":"release","token":"t","session":"k"}"#,
    ] {
        assert!(lock(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn an_expected_version_is_read_with_and_without_quotes() {
    let version = "0123456789ab0000000000cdef";
    for (text, wanted) in [
        (version.to_owned(), Some(Version::parse(version))),
        (format!("\"{version}\""), Some(Version::parse(version))),
        ("*".to_owned(), None),
        ("W/\"x\"".to_owned(), None),
    ] {
        let headers = HeaderMap::from_iter([(IF_MATCH, text.parse().unwrap())]);
        assert_eq!(expected(&headers).ok(), wanted, "{text}");
    }
    assert_eq!(expected(&HeaderMap::new()).unwrap(), None);
}
