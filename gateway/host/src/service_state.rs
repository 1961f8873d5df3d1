//! Words to a service manager, such as systemd, on the state of this process (sd_notify(3)). They go to the socket that the environment
//! names; where it names none, nobody is told.

use std::time::Duration;

use sd_notify::NotifyState;

/// Time beyond a drain that the end of the process takes at most.
const END_MAY_TAKE: Duration = Duration::from_secs(15);

/// State of this process, as a service manager takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    /// It serves.
    Ready,
    /// It serves in the place of the process before, and is the main process of the service from here on.
    TookOver,
    /// It serves, and a successor is being started.
    HandingOver,
    /// It ends once what is open has ended, at the latest after so long.
    Draining(Duration),
}

/// Tells the service manager the state, with one line for a person. That it cannot be told is logged.
pub fn tell_service_state(state: ServiceState, line: &str) {
    let told = words(state, line, std::process::id()).and_then(|words| sd_notify::notify(&words));
    if let Err(error) = told {
        tracing::warn!(%error, ?state, "the service manager cannot be told the state of this process");
    }
}

fn words(state: ServiceState, line: &str, process: u32) -> std::io::Result<Vec<NotifyState<'_>>> {
    let mut words = match state {
        ServiceState::Ready => vec![NotifyState::Ready],
        ServiceState::TookOver => vec![NotifyState::MainPid(process), NotifyState::Ready],
        ServiceState::HandingOver => vec![NotifyState::Reloading, NotifyState::monotonic_usec_now()?],
        ServiceState::Draining(longest) => {
            let longest = longest.saturating_add(END_MAY_TAKE).as_micros();
            // What does not fit is over an hour.
            let longest = u32::try_from(longest).unwrap_or(u32::MAX);
            vec![NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(longest)]
        }
    };
    words.push(NotifyState::Status(line));
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(state: ServiceState) -> Vec<String> {
        let words = words(state, "a line", 42).unwrap();
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_state_has_the_words_of_sd_notify() {
        assert_eq!(lines(ServiceState::Ready), ["READY=1", "STATUS=a line"]);
        assert_eq!(
            lines(ServiceState::TookOver),
            ["MAINPID=42", "READY=1", "STATUS=a line"]
        );
        let drain = |seconds| lines(ServiceState::Draining(Duration::from_secs(seconds)));
        assert_eq!(
            drain(30),
            ["STOPPING=1", "EXTEND_TIMEOUT_USEC=45000000", "STATUS=a line"]
        );
        assert_eq!(drain(86_400)[1], format!("EXTEND_TIMEOUT_USEC={}", u32::MAX));
        let handing = lines(ServiceState::HandingOver);
        assert_eq!(handing[0], "RELOADING=1");
        let clock = handing[1].strip_prefix("MONOTONIC_USEC=").unwrap();
        assert!(clock.parse::<u64>().unwrap() > 0);
    }
}
