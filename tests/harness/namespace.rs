//! Network namespaces of a test's own: hosts that share nothing but what the test connects.

use std::fs::File;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace. It ends with the last thread, process and descriptor that is in it.
#[derive(Debug, Clone)]
pub struct Namespace(Arc<File>);

impl Namespace {
    /// None, with the reason on stdout, where this user may not have one.
    pub fn create() -> Option<Self> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        match made.join().expect("no panic") {
            Ok(file) => {
                let namespace = Namespace(Arc::new(file));
                namespace.ip("link set lo up");
                Some(namespace)
            }
            Err(error) => {
                println!("skipped: no network namespace: {error}");
                None
            }
        }
    }

    /// Runs something on a thread that is in it: its sockets, and processes that it starts, are too.
    pub fn run<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(what).join().expect("no panic")
    }

    /// As [`Namespace::run`], without waiting.
    pub fn spawn<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let Namespace(file) = self.clone();
        std::thread::spawn(move || {
            setns(&*file, CloneFlags::CLONE_NEWNET).expect("the namespace is there");
            what()
        })
    }

    /// Runs something asynchronous there, on a runtime of its own.
    pub fn block_on<T: Send + 'static, F: Future<Output = T>>(
        &self,
        what: impl FnOnce() -> F + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        self.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(what())
        })
    }

    /// One command of iproute2.
    pub fn ip(&self, arguments: &str) {
        let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        let status = self.run(move || Command::new("ip").args(arguments).status());
        assert!(status.expect("iproute2 is installed").success());
    }
}
