//! The form of a script: for each step a byte that says which kind, a big-endian `u16`, and for a message as many bytes.
//! Every input is a script: what is cut short ends early.

/// One step of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// The hostile peer sends these bytes.
    Message(&'a [u8]),
    /// Time passes, in units of 50 ms.
    Wait(u16),
    /// The hostile peer's session begins anew, with a proper hello if `greeting`.
    Reconnect { greeting: bool },
    /// The replica's own exports change: so many of them, each with so many healthy instances.
    Exports { count: u8, healthy: u8 },
}

const WAIT: u8 = 1;
const RECONNECT: u8 = 2;
const EXPORTS: u8 = 3;
const KINDS: u8 = 8;

pub fn steps(mut data: &[u8]) -> impl Iterator<Item = Step<'_>> {
    std::iter::from_fn(move || {
        let ([kind, high, low], rest) = data.split_first_chunk::<3>()?;
        let number = u16::from_be_bytes([*high, *low]);
        data = rest;
        Some(match kind % KINDS {
            WAIT => Step::Wait(number),
            RECONNECT => Step::Reconnect {
                greeting: low % 2 == 0,
            },
            EXPORTS => Step::Exports {
                count: *high,
                healthy: *low,
            },
            _ => {
                let (message, rest) = data.split_at(data.len().min(usize::from(number)));
                data = rest;
                Step::Message(message)
            }
        })
    })
}

/// The script of these steps, as bytes.
pub fn write_script(steps: &[Step<'_>]) -> Vec<u8> {
    let mut script = Vec::new();
    for step in steps {
        let (kind, number, message): (u8, u16, &[u8]) = match *step {
            Step::Message(message) => (0, u16::try_from(message.len()).expect("a short seed"), message),
            Step::Wait(time) => (WAIT, time, &[]),
            Step::Reconnect { greeting } => (RECONNECT, u16::from(!greeting), &[]),
            Step::Exports { count, healthy } => (EXPORTS, u16::from_be_bytes([count, healthy]), &[]),
        };
        script.push(kind);
        script.extend(number.to_be_bytes());
        script.extend(message);
    }
    script
}
