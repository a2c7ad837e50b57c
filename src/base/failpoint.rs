//! Places where a test stops the program to kill it. In a release build there is nothing here.

/// Stops here for ever if this is the place that the variable COUNTERSIGN_FAIL_POINT names, having said so on standard
/// error.
#[cfg(debug_assertions)]
pub fn reached(name: &str) {
    use super::Environment;
    if super::deps::ProcessEnvironment.variable("COUNTERSIGN_FAIL_POINT").is_some_and(|wanted| wanted == name) {
        use std::io::Write;
        // A test reads this line; without it the test fails by its deadline.
        let _ = writeln!(std::io::stderr(), "fail point {name}");
        loop {
            std::thread::park();
        }
    }
}

/// Nothing, outside debug builds.
#[cfg(not(debug_assertions))]
pub fn reached(_: &str) {}
