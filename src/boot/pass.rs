//! One pass over the payload for many digests: each in a thread of its own.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::section::{SectionName, SectionSink};

/// Buffers that a digest may lie behind: with 1 MiB each the most that waits in memory.
const QUEUE: usize = 6;

enum Event {
    Begin(SectionName),
    Data(Arc<[u8]>),
    End,
    Outside(Arc<[u8]>),
}

/// Shows all that it is shown to several sinks at once.
///
/// With one thread the sinks are called in turn; with more, each sink has its own thread and the slowest sets the pace.
/// What a sink is shown, and so every digest, is the same in both cases.
#[derive(Debug)]
pub enum Fanout<S> {
    /// In turn.
    Inline(Vec<S>),
    /// Side by side.
    Threads(Vec<Lane<S>>),
}

/// A sink in its thread.
#[derive(Debug)]
pub struct Lane<S> {
    sender: SyncSender<Event>,
    thread: JoinHandle<S>,
}

impl<S: SectionSink + Send + 'static> Fanout<S> {
    /// Starts the threads: none where `jobs` is 1.
    #[must_use]
    pub fn new(sinks: Vec<S>, jobs: usize) -> Self {
        if jobs <= 1 {
            return Self::Inline(sinks);
        }
        let lane = |mut sink: S| {
            let (sender, receiver) = sync_channel(QUEUE);
            let thread = std::thread::spawn(move || {
                for event in receiver {
                    match event {
                        Event::Begin(name) => sink.begin(name),
                        Event::Data(bytes) => sink.data(&bytes),
                        Event::End => sink.end(),
                        Event::Outside(bytes) => sink.outside(&bytes),
                    }
                }
                sink
            });
            Lane { sender, thread }
        };
        Self::Threads(sinks.into_iter().map(lane).collect())
    }

    /// Waits until everything shown so far is digested, and gives the sinks back in their order.
    #[must_use]
    pub fn finish(self) -> Vec<S> {
        match self {
            Self::Inline(sinks) => sinks,
            Self::Threads(lanes) => lanes
                .into_iter()
                .map(|lane| {
                    drop(lane.sender);
                    lane.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect(),
        }
    }

    fn each(&mut self, inline: impl Fn(&mut S), event: impl Fn() -> Event) {
        match self {
            Self::Inline(sinks) => sinks.iter_mut().for_each(inline),
            // A lane whose thread is gone has panicked; `finish` passes the panic on.
            Self::Threads(lanes) => lanes.iter().for_each(|lane| drop(lane.sender.send(event()))),
        }
    }
}

impl<S: SectionSink + Send + 'static> SectionSink for Fanout<S> {
    fn begin(&mut self, name: SectionName) {
        self.each(|sink| sink.begin(name), || Event::Begin(name));
    }

    fn data(&mut self, bytes: &[u8]) {
        match self {
            Self::Inline(sinks) => sinks.iter_mut().for_each(|sink| sink.data(bytes)),
            Self::Threads(_) => {
                for chunk in bytes.chunks(1 << 20) {
                    let shared: Arc<[u8]> = chunk.into();
                    self.each(|sink| sink.data(chunk), || Event::Data(shared.clone()));
                }
            }
        }
    }

    fn end(&mut self) {
        self.each(SectionSink::end, || Event::End);
    }

    fn outside(&mut self, bytes: &[u8]) {
        match self {
            Self::Inline(sinks) => sinks.iter_mut().for_each(|sink| sink.outside(bytes)),
            Self::Threads(_) => {
                let shared: Arc<[u8]> = bytes.into();
                self.each(|sink| sink.outside(bytes), || Event::Outside(shared.clone()));
            }
        }
    }
}
