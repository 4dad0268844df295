//! What recognition counts. The metrics of the process implement it.

/// Counters of one site.
pub(crate) trait RecognitionCounter: Send + Sync {
    /// A method was asked. `result`: `person`, `nobody` or `broken`.
    fn recognition(&self, method: &'static str, result: &'static str);

    /// The identity cache was asked; it holds this many entries.
    fn cache(&self, hit: bool, entries: u64);

    /// A sign-out removed a session from the cache.
    fn sign_out(&self);
}
