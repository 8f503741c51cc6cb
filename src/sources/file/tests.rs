//! The source against a real directory: every way a file is replaced, with deadlines, not sleeps.

use super::told::chain;
use super::*;
use crate::pricing::Settings;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// No test waits longer; a healthy change takes a tenth of it.
const DEADLINE: Duration = Duration::from_secs(10);
/// A change is live within this (issue section 3).
const LIVE: Duration = Duration::from_secs(1);

/// A running source and the directory it reads.
struct Running {
    directory: TempDir,
    updates: mpsc::Receiver<Update>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn document(names: &[&str]) -> String {
    let mut text = "unmatched: deny\nroutes:\n".to_owned();
    for name in names {
        text.push_str(&format!("  - {{pattern: /{name}, gate: free}}\n"));
    }
    text
}

fn patterns(update: &Update) -> Vec<String> {
    match update {
        Update::Document { offers, .. } => offers
            .iter()
            .flat_map(|offer| &offer.routes)
            .map(|route| route.pattern.to_string())
            .collect(),
        Update::Failed { error, .. } => panic!("failed: {error}"),
        Update::Offers { .. }
        | Update::Remembered { .. }
        | Update::Released { .. }
        | Update::Tick => panic!("not ours"),
    }
}

fn failure(update: &Update) -> &str {
    match update {
        Update::Failed { source, error } => {
            assert_eq!(*source, "file");
            error
        }
        Update::Document { .. }
        | Update::Offers { .. }
        | Update::Remembered { .. }
        | Update::Released { .. }
        | Update::Tick => panic!("not a failure"),
    }
}

fn settings(update: Update) -> Settings {
    match update {
        Update::Document { settings, .. } => *settings,
        Update::Failed { error, .. } => panic!("failed: {error}"),
        Update::Offers { .. }
        | Update::Remembered { .. }
        | Update::Released { .. }
        | Update::Tick => panic!("not ours"),
    }
}

impl Running {
    fn start(prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        prepare(directory.path());
        let (sender, updates) = mpsc::channel(4);
        let source = FileSource::new(directory.path().join("pricing.yaml"));
        #[expect(clippy::disallowed_methods, reason = "a test owns its task")]
        let task = tokio::spawn(source.watch(sender));
        Self {
            directory,
            updates,
            task,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("pricing.yaml")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).expect("written");
    }

    async fn next(&mut self) -> Update {
        timeout(DEADLINE, self.updates.recv())
            .await
            .expect("an update in time")
            .expect("the source runs")
    }

    /// The next update, within the second that a change may take.
    async fn live(&mut self) -> Update {
        let begin = Instant::now();
        let update = self.next().await;
        assert!(begin.elapsed() < LIVE, "{:?}", begin.elapsed());
        update
    }

    /// That nothing is sent for longer than two polls and a settling take.
    async fn quiet(&mut self) {
        let quiet = timeout(POLL * 2 + SETTLE * 2, self.updates.recv()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }
}

#[tokio::test]
async fn a_file_written_in_place_or_renamed_over_is_live_within_a_second() {
    let mut source = Running::start(|directory| {
        fs::write(directory.join("pricing.yaml"), document(&["a"])).expect("written");
    });
    assert_eq!(patterns(&source.next().await), ["/a"]);
    source.write(&document(&["a", "b"]));
    assert_eq!(patterns(&source.live().await), ["/a", "/b"]);
    let new = source.directory.path().join("new");
    fs::write(&new, document(&["c"])).expect("written");
    fs::rename(&new, source.path()).expect("renamed");
    assert_eq!(patterns(&source.live().await), ["/c"]);
    // The same length and the same moment: only the content tells.
    source.write(&document(&["d"]));
    assert_eq!(patterns(&source.live().await), ["/d"]);
    // Touched, same content: nothing to tell.
    source.write(&document(&["d"]));
    source.quiet().await;
}

#[tokio::test]
async fn a_configmap_swap_is_live_within_a_second() {
    let swap = |directory: &Path, version: &str, names: &[&str]| {
        let data = directory.join(version);
        fs::create_dir(&data).expect("a version");
        fs::write(data.join("pricing.yaml"), document(names)).expect("written");
        symlink(version, directory.join("..data_tmp")).expect("linked");
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).expect("swapped");
    };
    let mut source = Running::start(|directory| {
        swap(directory, "..1", &["a"]);
        symlink("..data/pricing.yaml", directory.join("pricing.yaml")).expect("linked");
    });
    assert_eq!(patterns(&source.next().await), ["/a"]);
    swap(source.directory.path(), "..2", &["b"]);
    fs::remove_dir_all(source.directory.path().join("..1")).expect("removed");
    assert_eq!(patterns(&source.live().await), ["/b"]);
    swap(source.directory.path(), "..3", &["c"]);
    assert_eq!(patterns(&source.live().await), ["/c"]);
}

#[tokio::test]
async fn a_link_to_another_directory_is_followed() {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let real = elsewhere.path().join("real.yaml");
    fs::write(&real, document(&["a"])).expect("written");
    let mut source = Running::start(|directory| {
        symlink(&real, directory.join("pricing.yaml")).expect("linked");
    });
    assert_eq!(patterns(&source.next().await), ["/a"]);
    fs::write(&real, document(&["b"])).expect("written");
    assert_eq!(patterns(&source.live().await), ["/b"]);
}

#[tokio::test]
async fn a_half_written_file_never_becomes_a_table() {
    let mut source = Running::start(|directory| {
        fs::write(directory.join("pricing.yaml"), document(&["a", "b"])).expect("written");
    });
    assert_eq!(patterns(&source.next().await), ["/a", "/b"]);
    // Written in pieces that parse on their own, each piece sooner than a read settles.
    let whole = document(&["c", "d", "e", "f", "g"]);
    let mut file = File::create(source.path()).expect("created");
    for line in whole.split_inclusive('\n') {
        file.write_all(line.as_bytes()).expect("written");
        file.flush().expect("written");
        tokio::time::sleep(SETTLE / 3).await;
    }
    drop(file);
    assert_eq!(
        patterns(&source.live().await),
        ["/c", "/d", "/e", "/f", "/g"]
    );
}

/// Fails when [`Eyes::confirm`] takes a look for true without asking the files again.
#[test]
fn what_was_read_counts_only_if_it_is_still_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pricing.yaml");
    let half = document(&["a"]);
    fs::write(&path, &half).expect("written");
    let mut eyes = Eyes::new(path.clone(), &Arc::new(Notify::new()));
    let look = eyes.look().expect("something new");
    assert!(
        matches!(look.seen, Seen::New(..)),
        "the half parses on its own"
    );
    let mut file = File::options().append(true).open(&path).expect("opened");
    file.write_all(b"  - {pattern: /b, gate: free}\n")
        .expect("written");
    assert!(eyes.confirm(look).is_none(), "written on meanwhile");
    let look = eyes.look().expect("still something new");
    let Some(Seen::New(whole, _)) = eyes.confirm(look) else {
        panic!("the whole document")
    };
    assert_eq!(whole.offers[0].routes.len(), 2);
    assert!(eyes.look().is_none(), "nothing new");
}

#[tokio::test]
async fn a_broken_file_is_told_once_and_the_repaired_one_again() {
    let mut source = Running::start(|directory| {
        fs::write(directory.join("pricing.yaml"), document(&["a"])).expect("written");
    });
    assert_eq!(patterns(&source.next().await), ["/a"]);
    for (text, cause) in [
        ("routes: [", "unclosed bracket"),
        ("", "empty"),
        ("unmatched: yes", "unmatched"),
        ("routes: [{price: '1'}]", "no pattern"),
    ] {
        source.write(text);
        let update = source.live().await;
        assert!(failure(&update).contains(cause), "{}", failure(&update));
    }
    source.write("routes: [{price: '1'}]");
    source.quiet().await;
    source.write(&document(&["a"]));
    assert_eq!(
        patterns(&source.live().await),
        ["/a"],
        "same content, told again after a failure"
    );
}

/// The table keeps what it made of a route for as long as it gets the same one.
#[tokio::test]
async fn an_edit_keeps_the_routes_that_it_does_not_touch() {
    let routes = |update: &Update| match update {
        Update::Document { offers, .. } => {
            let routes = offers.iter().flat_map(|offer| &offer.routes);
            routes.map(|declared| Arc::clone(&declared.route)).collect()
        }
        Update::Offers { .. }
        | Update::Failed { .. }
        | Update::Remembered { .. }
        | Update::Released { .. }
        | Update::Tick => Vec::new(),
    };
    let mut source = Running::start(|directory| {
        fs::write(directory.join("pricing.yaml"), document(&["a", "b"])).expect("written");
    });
    let first = routes(&source.next().await);
    source.write(&document(&["new", "a", "b"]));
    let second = routes(&source.live().await);
    assert_eq!(second.len(), 3);
    assert!(Arc::ptr_eq(&first[0], &second[1]) && Arc::ptr_eq(&first[1], &second[2]));
    // Also after a text that was refused (R6).
    source.write("routes: [");
    failure(&source.live().await);
    source.write(&document(&["other", "a", "b"]));
    let third = routes(&source.live().await);
    assert_eq!(&*third[0].pattern, "/other");
    assert!(Arc::ptr_eq(&first[0], &third[1]) && Arc::ptr_eq(&first[1], &third[2]));
}

#[tokio::test]
async fn a_deleted_file_is_told_once_and_found_again() {
    let mut source = Running::start(|directory| {
        fs::write(directory.join("pricing.yaml"), document(&["a"])).expect("written");
    });
    assert_eq!(patterns(&source.next().await), ["/a"]);
    fs::remove_file(source.path()).expect("removed");
    let update = source.live().await;
    assert!(
        failure(&update).contains("cannot be read"),
        "{}",
        failure(&update)
    );
    source.quiet().await;
    source.write(&document(&["a"]));
    assert_eq!(patterns(&source.live().await), ["/a"]);
}

#[tokio::test]
async fn a_missing_directory_is_waited_for_and_a_replaced_one_followed() {
    let outer = tempfile::tempdir().expect("a directory");
    let inner = outer.path().join("config");
    let (sender, mut updates) = mpsc::channel(4);
    let source = FileSource::new(inner.join("pricing.yaml"));
    #[expect(clippy::disallowed_methods, reason = "a test owns its task")]
    let task = tokio::spawn(source.watch(sender));
    let mut next = async || {
        let update = timeout(DEADLINE, updates.recv()).await.expect("in time");
        update.expect("the source runs")
    };
    assert!(failure(&next().await).contains("cannot be read"));
    for name in ["a", "b"] {
        let version = outer.path().join(name);
        fs::create_dir(&version).expect("created");
        fs::write(version.join("pricing.yaml"), document(&[name])).expect("written");
        if inner.exists() {
            fs::rename(&inner, outer.path().join("old")).expect("moved away");
        }
        fs::rename(&version, &inner).expect("moved in");
        let mut update = next().await;
        if matches!(update, Update::Failed { .. }) {
            // Looked at between the two renames.
            update = next().await;
        }
        assert_eq!(patterns(&update), [format!("/{name}")]);
    }
    fs::write(inner.join("pricing.yaml"), document(&["c"])).expect("written");
    let begin = Instant::now();
    assert_eq!(patterns(&next().await), ["/c"]);
    assert!(begin.elapsed() < LIVE, "the new directory is watched");
    task.abort();
}

#[tokio::test]
async fn a_changed_secret_file_reloads_the_document() {
    let text = format!("verifySecretFile: secret\n{}", document(&["a"]));
    let mut source = Running::start(|directory| {
        fs::write(directory.join("secret"), "0123456789abcdef").expect("written");
        fs::write(directory.join("pricing.yaml"), &text).expect("written");
    });
    let secret = |update| {
        use secrecy::ExposeSecret as _;
        let secret = settings(update).verify_secret.expect("a secret");
        secret.expose_secret().to_owned()
    };
    assert_eq!(secret(source.next().await), "0123456789abcdef");
    let path = source.directory.path().join("secret");
    fs::write(&path, "fedcba9876543210").expect("written");
    assert_eq!(secret(source.live().await), "fedcba9876543210");
    fs::remove_file(&path).expect("removed");
    assert!(failure(&source.live().await).contains("verifySecretFile"));
    fs::write(&path, "fedcba9876543210").expect("written");
    assert_eq!(secret(source.live().await), "fedcba9876543210");
}

#[tokio::test]
async fn polling_alone_is_enough_where_no_notification_arrives() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pricing.yaml");
    fs::write(&path, document(&["a"])).expect("written");
    let bell = Arc::new(Notify::new());
    let mut eyes = Eyes::new(path.clone(), &bell);
    eyes.notices.watcher = None;
    let (eyes, seen) = step(eyes, &bell).await.expect("a step");
    assert!(matches!(seen, Some(Seen::New(..))));
    let (eyes, seen) = step(eyes, &bell).await.expect("a step");
    assert!(seen.is_none());
    fs::write(&path, document(&["b"])).expect("written");
    let (_, seen) = step(eyes, &bell).await.expect("a step");
    let Some(Seen::New(document, _)) = seen else {
        panic!("a new document")
    };
    assert_eq!(&*document.offers[0].routes[0].pattern, "/b");
}

#[tokio::test]
async fn without_watching_the_file_is_loaded_once_or_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pricing.yaml");
    let source = FileSource::new(&path);
    let (sender, mut updates) = mpsc::channel(1);
    assert!(matches!(
        source.once(&sender).await,
        Err(LoadError::Read { .. })
    ));
    fs::write(&path, [0xff]).expect("written");
    assert!(matches!(
        source.once(&sender).await,
        Err(LoadError::NotText { .. })
    ));
    fs::write(&path, "a: [").expect("written");
    let error = source.once(&sender).await.expect_err("not YAML");
    assert!(
        chain(&error).contains("pricing.yaml was refused: "),
        "{}",
        chain(&error)
    );
    fs::write(&path, document(&["a"])).expect("written");
    source.once(&sender).await.expect("loaded");
    assert_eq!(patterns(&updates.recv().await.expect("sent")), ["/a"]);
    let folder = load_once(directory.path());
    assert!(matches!(folder, Err(LoadError::NotAFile { .. })));
}
