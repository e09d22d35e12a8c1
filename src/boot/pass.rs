//! One pass over the payload for many digests: each in a thread of its own.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::section::{SectionName, SectionSink};

/// Bytes of a buffer: small enough that what one thread has just read lies in a cache for the others.
const CHUNK: usize = 256 << 10;
/// Buffers that a digest may lie behind: the most that waits in memory.
const QUEUE: usize = 16;

enum Event<S> {
    Look(Box<dyn FnOnce(&S) + Send>),
    Begin(SectionName),
    Data(Arc<Vec<u8>>),
    End,
    Outside(Arc<Vec<u8>>),
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
    Threads(Vec<Lane<S>>, Buffers),
}

/// Buffers that were shown before, to be used again: asking the system for each anew costs a tenth of the whole pass.
#[derive(Debug, Default)]
pub struct Buffers(Vec<Arc<Vec<u8>>>);

impl Buffers {
    fn filled(&mut self, bytes: &[u8]) -> Arc<Vec<u8>> {
        let free = self.0.iter().position(|buffer| Arc::strong_count(buffer) == 1);
        let mut buffer = free.map(|index| self.0.swap_remove(index)).unwrap_or_default();
        // Nobody else holds it: this is the buffer itself, not a copy.
        let content = Arc::make_mut(&mut buffer);
        content.clear();
        content.extend_from_slice(bytes);
        self.0.push(buffer.clone());
        buffer
    }
}

/// A sink in its thread.
#[derive(Debug)]
pub struct Lane<S> {
    sender: SyncSender<Event<S>>,
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
                        Event::Look(look) => look(&sink),
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
        Self::Threads(sinks.into_iter().map(lane).collect(), Buffers::default())
    }

    /// Waits until everything shown so far is digested, and gives the sinks back in their order.
    #[must_use]
    pub fn finish(self) -> Vec<S> {
        match self {
            Self::Inline(sinks) => sinks,
            Self::Threads(lanes, _) => lanes.into_iter().map(Lane::join).collect(),
        }
    }

    fn each(&mut self, inline: impl Fn(&mut S), event: impl Fn() -> Event<S>) {
        match self {
            Self::Inline(sinks) => sinks.iter_mut().for_each(inline),
            // A lane whose thread is gone has panicked; `finish` passes the panic on.
            Self::Threads(lanes, _) => lanes.iter().for_each(|lane| drop(lane.sender.send(event()))),
        }
    }

    fn bytes(&mut self, bytes: &[u8], inline: impl Fn(&mut S, &[u8]), event: impl Fn(Arc<Vec<u8>>) -> Event<S>) {
        match self {
            Self::Inline(sinks) => sinks.iter_mut().for_each(|sink| inline(sink, bytes)),
            Self::Threads(lanes, buffers) => {
                for chunk in bytes.chunks(CHUNK) {
                    let shared = buffers.filled(chunk);
                    lanes.iter().for_each(|lane| drop(lane.sender.send(event(shared.clone()))));
                }
            }
        }
    }
}

impl<S: Clone + Send + 'static> Fanout<S> {
    /// Waits until the first `count` sinks have digested everything shown so far, and gives copies of them; all go on.
    #[must_use]
    pub fn snapshot(&self, count: usize) -> Vec<S> {
        match self {
            Self::Inline(sinks) => sinks.iter().take(count).cloned().collect(),
            Self::Threads(lanes, _) => {
                let ask = |lane: &Lane<S>| {
                    let (sender, receiver) = sync_channel(1);
                    // A lane whose thread is gone has panicked; `finish` passes the panic on.
                    let look = move |sink: &S| drop(sender.send(sink.clone()));
                    lane.sender.send(Event::Look(Box::new(look))).ok().map(|()| receiver)
                };
                let asked: Vec<_> = lanes.iter().take(count).filter_map(ask).collect();
                asked.into_iter().filter_map(|receiver| receiver.recv().ok()).collect()
            }
        }
    }
}

impl<S> Lane<S> {
    fn join(self) -> S {
        drop(self.sender);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl<S: SectionSink + Send + 'static> SectionSink for Fanout<S> {
    fn begin(&mut self, name: SectionName) {
        self.each(|sink| sink.begin(name), || Event::Begin(name));
    }

    fn data(&mut self, bytes: &[u8]) {
        self.bytes(bytes, S::data, Event::Data);
    }

    fn end(&mut self) {
        self.each(SectionSink::end, || Event::End);
    }

    fn outside(&mut self, bytes: &[u8]) {
        self.bytes(bytes, S::outside, Event::Outside);
    }
}
