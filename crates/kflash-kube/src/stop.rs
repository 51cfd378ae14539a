//! A request to stop, from a signal.

use tokio::sync::watch;

/// Asks runs to stop.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Tells whether a run is asked to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Both ends.
pub fn channel() -> (Stopper, Stop) {
    let (to, from) = watch::channel(false);
    (Stopper(to), Stop(from))
}

impl Stopper {
    /// Asks to stop.
    pub fn request(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Whether it is asked to stop.
    pub fn requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it is asked to stop.
    pub async fn wait(&self) {
        // Nobody is left who could ask: then it never is.
        if self.0.clone().wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
