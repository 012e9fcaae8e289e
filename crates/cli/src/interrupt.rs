//! Ctrl-C and SIGTERM: the first one asks the job to end in order, and another ends the process at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The signal that came; 0 before one.
static SIGNAL: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// Listens from now on.
pub(crate) fn listen() {
    let came = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order, so that only a second signal finds the flag set. Where signals can't be caught they end the
        // process, which loses no more than a power cut.
        let _ = flag::register_conditional_default(signal, Arc::clone(&came));
        let _ = flag::register(signal, Arc::clone(&came));
        let _ = flag::register_usize(signal, Arc::clone(&SIGNAL), signal.unsigned_abs() as usize);
    }
}

/// The number of the signal that came.
pub(crate) fn signal() -> Option<u8> {
    u8::try_from(SIGNAL.load(Ordering::Relaxed)).ok().filter(|&signal| signal != 0)
}
