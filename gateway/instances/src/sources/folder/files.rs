//! The instances that the files of a folder come to. Pure: it is given what was read.
//!
//! A file that is bad keeps what it said before, a file that is gone takes its instances along, and where two files name
//! the same instance, the first by name counts.

use std::collections::{BTreeMap, BTreeSet};

use causeway_federation::{
    registry::{InstanceKey, Provenance, Registration},
    topology::{FixedInstance, parse_instances},
};

use super::{Contents, STYLE};

#[derive(Debug, Default)]
pub(super) struct Files {
    files: BTreeMap<String, Content>,
    /// Instances that a file names after another has: by file and instance, the file that counts.
    twice: BTreeMap<(String, String), String>,
}

#[derive(Debug, Default)]
struct Content {
    /// Content that was read last, good or bad, so that each content is taken up or complained of once.
    last: Option<Result<String, String>>,
    instances: Vec<FixedInstance>,
}

/// Event that is worth telling.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    Taken {
        file: String,
        count: usize,
    },
    Gone {
        file: String,
    },
    /// `details` has all findings, with their lines and hints.
    Refused {
        file: String,
        summary: String,
        details: String,
    },
    Twice {
        file: String,
        also_in: String,
        key: String,
    },
    TwiceNoMore {
        file: String,
        key: String,
    },
}

impl Files {
    /// Takes up what the folder holds now.
    pub(super) fn take(&mut self, contents: Contents) -> Vec<News> {
        let mut news = Vec::new();
        let gone: Vec<String> = self
            .files
            .keys()
            .filter(|file| !contents.contains_key(*file))
            .cloned()
            .collect();
        for file in gone {
            self.files.remove(&file);
            news.push(News::Gone { file });
        }
        for (file, content) in contents {
            let known = self.files.entry(file.clone()).or_default();
            if known.last.as_ref() != Some(&content) {
                news.push(known.take(file, &content));
                known.last = Some(content);
            }
        }
        self.find_twice(&mut news);
        news
    }

    /// All instances, each once.
    pub(super) fn registrations(&self) -> Vec<Registration> {
        let all = self.files.values().flat_map(|content| &content.instances);
        let mut seen: BTreeSet<InstanceKey> = BTreeSet::new();
        all.map(registration)
            .filter(|registration| seen.insert(registration.key()))
            .collect()
    }

    fn find_twice(&mut self, news: &mut Vec<News>) {
        let mut first: BTreeMap<InstanceKey, &String> = BTreeMap::new();
        let mut twice = BTreeMap::new();
        for (file, content) in &self.files {
            for instance in &content.instances {
                let key = registration(instance).key();
                let shown = key.to_string();
                let counts = *first.entry(key).or_insert(file);
                if counts != file {
                    twice.insert((file.clone(), shown), counts.clone());
                }
            }
        }
        let ended = self.twice.keys().filter(|known| !twice.contains_key(*known));
        news.extend(ended.map(|(file, key)| News::TwiceNoMore {
            file: file.clone(),
            key: key.clone(),
        }));
        let begun = twice
            .iter()
            .filter(|(at, also)| self.twice.get(*at) != Some(*also));
        news.extend(begun.map(|((file, key), also_in)| News::Twice {
            file: file.clone(),
            also_in: also_in.clone(),
            key: key.clone(),
        }));
        self.twice = twice;
    }
}

impl Content {
    fn take(&mut self, file: String, content: &Result<String, String>) -> News {
        let text = match content {
            Ok(text) => text,
            Err(why) => {
                return News::Refused {
                    file,
                    summary: format!("it cannot be read: {why}"),
                    details: String::new(),
                };
            }
        };
        match parse_instances(text, &file) {
            Ok(instances) => {
                self.instances = instances;
                News::Taken {
                    file,
                    count: self.instances.len(),
                }
            }
            Err(findings) => News::Refused {
                file,
                summary: findings.to_string(),
                details: findings.render(STYLE),
            },
        }
    }
}

fn registration(instance: &FixedInstance) -> Registration {
    Registration {
        service: instance.service.clone(),
        id: instance.address.to_string(),
        address: instance.address,
        tags: instance.tags.clone(),
        weight: instance.weight,
        capacity_per_second: instance.capacity_per_second,
        time_to_live: None,
        provenance: Provenance::ThisHost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(addresses: &[&str]) -> Result<String, String> {
        let lines = addresses
            .iter()
            .map(|address| format!("  - {{ service: orders, address: \"{address}\" }}\n"));
        Ok(format!("instances:\n{}", lines.collect::<String>()))
    }

    fn contents<const N: usize>(files: [(&str, Result<String, String>); N]) -> Contents {
        files
            .into_iter()
            .map(|(name, content)| (name.to_owned(), content))
            .collect()
    }

    fn ids(files: &Files) -> Vec<String> {
        files
            .registrations()
            .into_iter()
            .map(|registration| registration.id)
            .collect()
    }

    #[test]
    fn a_bad_file_keeps_what_it_said_and_does_not_touch_the_others() {
        let mut files = Files::default();
        files.take(contents([
            ("a.yaml", file(&["10.0.0.1:80"])),
            ("b.yaml", file(&["10.0.0.2:80"])),
        ]));
        let bad = Ok("instances:\n  - { service: orders, adress: \"10.0.0.9:80\" }\n".to_owned());
        let now = || contents([("a.yaml", bad.clone()), ("b.yaml", file(&["10.0.0.3:80"]))]);
        let news = files.take(now());
        let News::Refused {
            file: named, details, ..
        } = &news[0]
        else {
            panic!("{news:?}");
        };
        assert_eq!(named, "a.yaml");
        assert!(details.contains("did you mean `address`?"), "{details}");
        assert_eq!(ids(&files), ["10.0.0.1:80", "10.0.0.3:80"]);
        assert_eq!(files.take(now()), [], "complained of once");
        let unreadable = contents([
            ("a.yaml", Err("denied".to_owned())),
            ("b.yaml", file(&["10.0.0.3:80"])),
        ]);
        assert!(matches!(files.take(unreadable)[..], [News::Refused { .. }]));
        assert_eq!(ids(&files).len(), 2);
    }

    #[test]
    fn a_file_that_is_gone_takes_its_instances_along() {
        let mut files = Files::default();
        files.take(contents([
            ("a.yaml", file(&["10.0.0.1:80"])),
            ("b.yaml", file(&["10.0.0.2:80"])),
        ]));
        let news = files.take(contents([("b.yaml", file(&["10.0.0.2:80"]))]));
        assert_eq!(
            news,
            [News::Gone {
                file: "a.yaml".to_owned()
            }]
        );
        assert_eq!(ids(&files), ["10.0.0.2:80"]);
    }

    #[test]
    fn an_instance_in_two_files_is_that_of_the_first_and_that_is_said() {
        let mut files = Files::default();
        let both = contents([
            ("a.yaml", file(&["10.0.0.1:80"])),
            ("b.yaml", file(&["10.0.0.1:80"])),
        ]);
        let news = files.take(both);
        assert!(news.contains(&News::Twice {
            file: "b.yaml".to_owned(),
            also_in: "a.yaml".to_owned(),
            key: "orders/10.0.0.1:80".to_owned(),
        }));
        assert_eq!(ids(&files), ["10.0.0.1:80"]);
        let news = files.take(contents([("b.yaml", file(&["10.0.0.1:80"]))]));
        assert!(
            matches!(news[..], [News::Gone { .. }, News::TwiceNoMore { .. }]),
            "{news:?}"
        );
        assert_eq!(ids(&files), ["10.0.0.1:80"], "now that of the second");
    }
}
