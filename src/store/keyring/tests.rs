use std::collections::BTreeMap;
use std::fs::Permissions;

use base64::Engine as _;
use secrecy::SecretString;
use tempfile::TempDir;

use super::file::{BASE64, OldFile, OldKey};
use super::*;
use crate::base::seal::KEY_BYTES;
use crate::store::record;

const NOW: u64 = 1_795_000_000_000;
const DAY: u64 = 86_400_000;

fn settings(dir: &Path) -> config::Store {
    config::Store { data_dir: dir.to_owned(), ballast_bytes: 0, ..config::Store::default() }
}

fn line(id: u8, byte: u8) -> String {
    format!("{id}:{}\n", BASE64.encode([byte; KEY_BYTES]))
}

fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

fn with_file(dir: &Path, text: &str) -> (TempDir, config::Store) {
    let beside = tempfile::tempdir().unwrap();
    let key_file = file(beside.path(), "the.keys", text);
    (beside, config::Store { key_file, ..settings(dir) })
}

fn start(settings: &config::Store) -> Result<(Keyring, Sealer), StoreError> {
    let mut keyring = Keyring::read(&settings.data_dir, settings)?;
    let sealer = keyring.start(NOW)?;
    Ok((keyring, sealer))
}

fn refusal(settings: &config::Store) -> String {
    match start(settings) {
        Err(StoreError::Unusable(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn ids(keyring: &Keyring) -> Vec<u8> {
    keyring.entries().iter().map(|entry| entry.secret.id()).collect()
}

fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

#[test]
fn the_first_start_makes_a_key_that_later_ones_find() {
    let dir = tempfile::tempdir().unwrap();
    let (keyring, sealer) = start(&settings(dir.path())).unwrap();
    assert_eq!((ids(&keyring), keyring.may_seal(1)), (vec![1], true));
    assert_eq!(keyring.entries()[0].made_ms, Some(NOW));
    let before = content(dir.path());
    let (_, again) = start(&settings(dir.path())).unwrap();
    assert_eq!(again.keys().sign(b"x"), sealer.keys().sign(b"x"));
    assert_eq!(content(dir.path()), before);
    for name in [OWN_FILE, NOTE_FILE] {
        assert_eq!(
            fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777,
            0o600,
            "{name}"
        );
    }
}

#[test]
fn a_file_of_the_old_form_signs_as_before_and_becomes_text_when_it_is_rotated() {
    let dir = tempfile::tempdir().unwrap();
    let old = OldFile { current: 1, ring: vec![OldKey { id: 1, secret: [9; KEY_BYTES] }] };
    fs::write(dir.path().join(OWN_FILE), record::encode(&old).unwrap()).unwrap();
    let before = fs::read(dir.path().join(OWN_FILE)).unwrap();
    let (mut keyring, sealer) = start(&settings(dir.path())).unwrap();
    assert_eq!(fs::read(dir.path().join(OWN_FILE)).unwrap(), before);
    let mac = sealer.keys().sign(b"x");
    assert_eq!(mac, Keys::of(&[Secret::new(1, Zeroizing::new([9; KEY_BYTES]))]).sign(b"x"));
    assert_eq!(keyring.rotate(NOW).unwrap(), 2);
    let (keyring, sealer) = start(&settings(dir.path())).unwrap();
    assert_eq!(ids(&keyring), [2, 1]);
    assert!(sealer.keys().verify(1, b"x", &mac) && sealer.keys().sign(b"x") != mac);
    assert!(fs::read_to_string(dir.path().join(OWN_FILE)).unwrap().starts_with("# Keys of Outlast"));
}

#[test]
fn keys_come_from_the_first_place_that_has_some_and_those_of_the_directory_still_open() {
    let dir = tempfile::tempdir().unwrap();
    let (_, own) = start(&settings(dir.path())).unwrap();
    let (beside, mut settings) = with_file(dir.path(), &line(7, 7));
    settings.key_credential = Some(file(beside.path(), "outlast.keys", &line(8, 8)));
    // As systemd shows an ACL.
    fs::set_permissions(beside.path().join("outlast.keys"), Permissions::from_mode(0o440)).unwrap();
    settings.keys = SecretString::from(format!("{},{}", line(9, 9).trim(), line(10, 10).trim()));
    for expected in [vec![7, 1], vec![8, 1], vec![9, 10, 1], vec![1]] {
        let (keyring, sealer) = start(&settings).unwrap();
        assert_eq!(ids(&keyring), expected);
        assert!(sealer.keys().verify(1, b"x", &own.keys().sign(b"x")));
        match expected[0] {
            7 => settings.key_file = PathBuf::new(),
            8 => settings.key_credential = None,
            _ => settings.keys = SecretString::default(),
        }
        // Nothing was sealed with it yet, so it is not missed.
        fs::write(dir.path().join(NOTE_FILE), "").unwrap();
    }
}

#[test]
fn one_number_for_two_keys_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    start(&settings(dir.path())).unwrap();
    let (_beside, settings) = with_file(dir.path(), &line(1, 7));
    let text = refusal(&settings);
    assert!(text.contains("the.keys") && text.contains("under the number 1"), "{text}");
}

#[test]
fn a_bad_line_is_named_by_its_number_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let good = line(1, 1);
    let secret = BASE64.encode([2; KEY_BYTES]);
    for (bad, part) in [
        (secret.clone(), "want ID:BASE64"),
        (format!("0:{secret}"), "1 to 255"),
        (format!("256:{secret}"), "1 to 255"),
        (format!("x:{secret}"), "1 to 255"),
        (format!("2:{}", &secret[..40]), "32 bytes"),
        (format!("2:{secret}AAAA"), "32 bytes"),
        (format!("2:!{secret}"), "32 bytes"),
        (format!("2:{secret} {secret}"), "made=SECONDS"),
        (format!("2:{secret} made=soon"), "made=SECONDS"),
        (format!("1:{secret}"), "a key 1 above"),
    ] {
        let (_beside, settings) = with_file(dir.path(), &format!("# mine\n\n{good}{bad}\n"));
        let text = refusal(&settings);
        assert!(text.contains("the.keys, line 4: ") && text.contains(part), "{text}");
        assert!(!text.contains(&secret[..12]), "{text}");
    }
    let (_beside, settings) = with_file(dir.path(), "# nothing\n");
    assert!(refusal(&settings).contains("no key in it"));
    let settings = config::Store { keys: SecretString::from(secret.clone()), ..self::settings(dir.path()) };
    let text = refusal(&settings);
    assert!(text.contains("OUTLAST_STORE__KEYS") && !text.contains(&secret[..12]), "{text}");
}

#[test]
fn a_key_file_that_others_may_read_is_refused_and_one_that_is_not_there_too() {
    let dir = tempfile::tempdir().unwrap();
    let (_beside, settings) = with_file(dir.path(), &line(1, 1));
    for mode in [0o640, 0o604, 0o620, 0o644] {
        fs::set_permissions(&settings.key_file, Permissions::from_mode(mode)).unwrap();
        let text = refusal(&settings);
        assert!(
            text.contains("the.keys") && text.contains("chmod 0600") && text.contains(&format!("{mode:04o}")),
            "{text}"
        );
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(&settings.key_file, Permissions::from_mode(mode)).unwrap();
        start(&settings).unwrap();
    }
    fs::remove_file(&settings.key_file).unwrap();
    assert!(refusal(&settings).contains("is not there"));
    // The file of the data directory is closed instead: a restored backup must not keep the server from starting.
    let dir = tempfile::tempdir().unwrap();
    let settings = self::settings(dir.path());
    start(&settings).unwrap();
    fs::set_permissions(dir.path().join(OWN_FILE), Permissions::from_mode(0o644)).unwrap();
    start(&settings).unwrap();
    assert_eq!(fs::metadata(dir.path().join(OWN_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn without_the_keys_that_the_data_needs_nothing_starts_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (_beside, right) = with_file(dir.path(), &format!("{}{}", line(4, 4), line(3, 3)));
    let (mut keyring, _) = start(&right).unwrap();
    keyring.rotate(NOW).unwrap();
    let before = content(dir.path());
    for (text, parts) in [
        (line(1, 1), vec!["does not have the key 4, 5"]),
        (line(4, 4), vec!["does not have the key 5"]),
        (format!("{}{}", line(4, 4), line(5, 9)), vec!["another key under the number 5"]),
        (line(5, 9), vec!["does not have the key 4", "another key under the number 5"]),
    ] {
        let (_other, wrong) = with_file(dir.path(), &text);
        let said = refusal(&wrong);
        let named = said.contains("the.keys") && said.contains(dir.path().to_str().unwrap());
        assert!(named && parts.iter().all(|part| said.contains(part)), "{said}");
        assert_eq!(content(dir.path()), before);
    }
    assert!(refusal(&settings(dir.path())).contains("does not have the key 4, 5"));
    assert_eq!(content(dir.path()), before);
    start(&right).unwrap();
}

#[test]
fn a_rotation_puts_a_new_first_line_and_keeps_everything_else() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("# the vault\n\n{}# older\n{}", line(2, 2), line(1, 1));
    let (_beside, settings) = with_file(dir.path(), &text);
    let (mut keyring, _) = start(&settings).unwrap();
    assert_eq!(keyring.rotate(NOW).unwrap(), 3);
    let rotated = fs::read_to_string(&settings.key_file).unwrap();
    let mut lines = rotated.lines();
    assert_eq!(lines.by_ref().take(2).collect::<Vec<_>>(), ["# the vault", ""]);
    let new = lines.next().unwrap();
    assert!(new.starts_with("3:") && new.ends_with(&format!(" made={}", NOW / 1_000)), "{new}");
    assert_eq!(lines.collect::<Vec<_>>().join("\n") + "\n", text.split_once("\n\n").unwrap().1);
    assert_eq!(fs::metadata(&settings.key_file).unwrap().permissions().mode() & 0o777, 0o600);
    let (keyring, _) = start(&settings).unwrap();
    assert_eq!((ids(&keyring), keyring.may_seal(3)), (vec![3, 2, 1], true));
}

#[test]
fn keys_that_this_program_does_not_write_are_rotated_by_hand_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let beside = tempfile::tempdir().unwrap();
    let credential = file(beside.path(), "outlast.keys", &line(6, 6));
    let as_credential = config::Store { key_credential: Some(credential), ..settings(dir.path()) };
    let as_setting = config::Store { keys: SecretString::from(line(6, 6)), ..settings(dir.path()) };
    for (settings, place) in [(as_credential, "outlast.keys"), (as_setting, "OUTLAST_STORE__KEYS")] {
        let (mut keyring, _) = start(&settings).unwrap();
        let text = keyring.rotate(NOW).unwrap_err().to_string();
        assert!(text.contains(place) && text.contains("\"7:$(head"), "{text}");
        assert_eq!(ids(&keyring), [6]);
    }
}

#[test]
fn without_encryption_no_key_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    let off = config::Store { encryption: false, ..settings(dir.path()) };
    let (mut keyring, _) = start(&off).unwrap();
    keyring.rotate(NOW).unwrap();
    assert!(!keyring.may_seal(1) && !keyring.may_seal(2));
    assert!(!dir.path().join(NOTE_FILE).exists());
}

#[test]
fn numbers_of_keys_go_round_and_end_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let (_beside, settings) = with_file(dir.path(), &format!("{}{}", line(255, 1), line(1, 2)));
    let (mut keyring, _) = start(&settings).unwrap();
    assert_eq!(keyring.rotate(NOW).unwrap(), 2);
    let all: String = (1..=255).map(|id| line(id, id)).collect();
    let dir = tempfile::tempdir().unwrap();
    let (_beside, settings) = with_file(dir.path(), &all);
    let (mut keyring, _) = start(&settings).unwrap();
    assert!(keyring.rotate(NOW).unwrap_err().to_string().contains("prune"));
    assert_eq!(fs::read_to_string(&settings.key_file).unwrap(), all);
}

#[test]
fn only_keys_that_nothing_needs_are_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (mut keyring, _) = start(&settings).unwrap();
    for day in 1..=4 {
        keyring.rotate(NOW + day * DAY).unwrap();
    }
    let used = BTreeSet::from([2]);
    let now_ms = NOW + 4 * DAY + 1;
    let pruned = keyring.prune(&used, now_ms, DAY).unwrap();
    let kept: Vec<(u8, Option<&str>)> = pruned.iter().map(|key| (key.id, key.kept.as_deref())).collect();
    let [(4, Some(signed)), (3, None), (2, Some(sealed)), (1, None)] = kept[..] else { panic!("{kept:?}") };
    assert!(signed.contains("1 more days") && sealed.contains("--reseal"), "{kept:?}");
    assert_eq!(ids(&keyring), [5, 4, 2]);
    let (keyring, _) = start(&settings).unwrap();
    assert_eq!(ids(&keyring), [5, 4, 2]);
    assert_eq!([1, 2, 3, 4, 5].map(|id| keyring.may_seal(id)), [false, true, false, false, true]);
}

#[test]
fn keys_moved_out_of_the_directory_are_pruned_there_with_their_file() {
    let dir = tempfile::tempdir().unwrap();
    start(&settings(dir.path())).unwrap();
    let (_beside, settings) = with_file(dir.path(), &format!("{} made={}\n", line(2, 2).trim(), NOW / 1_000));
    let (mut keyring, _) = start(&settings).unwrap();
    assert!(keyring.prune(&BTreeSet::new(), NOW + 2 * DAY, DAY).unwrap()[0].kept.is_none());
    assert!(!dir.path().join(OWN_FILE).exists());
    assert_eq!(ids(&start(&settings).unwrap().0), [2]);
}

#[test]
fn a_key_of_which_nobody_knows_when_it_signed_last_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (_beside, settings) = with_file(dir.path(), &format!("{}{}", line(2, 2), line(1, 1)));
    let (mut keyring, _) = start(&settings).unwrap();
    let pruned = keyring.prune(&BTreeSet::new(), u64::MAX, DAY).unwrap();
    assert!(pruned[0].kept.as_ref().unwrap().contains("max_ttl_seconds"));
    assert_eq!(ids(&keyring), [2, 1]);
}

#[test]
fn nothing_of_a_key_is_in_its_debug_form() {
    let dir = tempfile::tempdir().unwrap();
    let (_beside, mut settings) = with_file(dir.path(), &line(2, 0xab));
    settings.keys = SecretString::from(line(3, 0xcd));
    let shown = format!("{:?}", start(&settings).unwrap());
    for secret in [[0xab_u8; 8], [0xcd; 8]] {
        assert!(
            !shown.contains(&BASE64.encode(secret)[..8]) && !shown.contains(&format!("{secret:?}")[1..20]),
            "{shown}"
        );
    }
}
