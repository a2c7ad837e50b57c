//! A network and an environment for tests: what they answer is written down, what is asked of them is remembered.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use http::{HeaderMap, Request, Response, StatusCode};

use crate::base::{BoxFuture, CallError, ClientOptions, Destination, Environment, HttpClient, HttpClients};

/// What a call gives.
pub(in crate::token) type Answer = Result<Response<Vec<u8>>, CallError>;

/// An answer with a status and a body.
pub(in crate::token) fn answer(status: u16, body: &str) -> Answer {
    let mut response = Response::new(body.as_bytes().to_vec());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    Ok(response)
}

/// No answer.
pub(in crate::token) fn failing(detail: &str) -> Answer {
    Err(CallError { detail: detail.into(), sent: true })
}

/// A call that was made.
#[derive(Debug, Clone)]
pub(in crate::token) struct Called {
    /// The client it was made with.
    pub(in crate::token) options: ClientOptions,
    /// `METHOD address`.
    pub(in crate::token) line: String,
    /// Its headers.
    pub(in crate::token) headers: HeaderMap,
    /// Its body.
    pub(in crate::token) body: String,
}

#[derive(Debug, Default)]
struct State {
    answers: HashMap<String, VecDeque<Answer>>,
    calls: Vec<Called>,
}

/// Answers by `METHOD address`, the last answer again and again; what has none cannot be reached.
#[derive(Debug, Clone, Default)]
pub(in crate::token) struct Network(Arc<Mutex<State>>);

impl Network {
    /// A network with these answers.
    pub(in crate::token) fn answering<'a>(answers: impl IntoIterator<Item = (&'a str, Answer)>) -> Self {
        let network = Self::default();
        for (line, answer) in answers {
            network.0.lock().unwrap().answers.entry(line.to_owned()).or_default().push_back(answer);
        }
        network
    }

    /// The calls so far.
    pub(in crate::token) fn calls(&self) -> Vec<Called> {
        self.0.lock().unwrap().calls.clone()
    }

    /// The lines of the calls so far.
    pub(in crate::token) fn lines(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.line).collect()
    }
}

impl HttpClients for Network {
    fn client(&self, endpoint: &Destination, options: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
        Ok(Arc::new(Client { network: self.clone(), endpoint: endpoint.clone(), options: options.clone() }))
    }
}

#[derive(Debug)]
struct Client {
    network: Network,
    endpoint: Destination,
    options: ClientOptions,
}

impl HttpClient for Client {
    fn call(&self, request: Request<Vec<u8>>) -> BoxFuture<'_, Result<Response<Vec<u8>>, CallError>> {
        assert_eq!(
            Destination::from_absolute(request.uri()).unwrap(),
            self.endpoint,
            "a client calls its own endpoint"
        );
        let line = format!("{} {}", request.method(), request.uri());
        let mut state = self.network.0.lock().unwrap();
        state.calls.push(Called {
            options: self.options.clone(),
            line: line.clone(),
            headers: request.headers().clone(),
            body: String::from_utf8(request.body().clone()).unwrap(),
        });
        let answer = match state.answers.get_mut(&line) {
            Some(answers) if answers.len() > 1 => answers.pop_front(),
            Some(answers) => answers.front().cloned(),
            None => None,
        };
        let unreachable = || Err(CallError { detail: "no route to host".into(), sent: false });
        Box::pin(std::future::ready(answer.unwrap_or_else(unreachable)))
    }
}

/// Some environment variables.
#[derive(Debug, Clone, Default)]
pub(in crate::token) struct Variables(HashMap<String, String>);

impl Variables {
    /// These and no others.
    pub(in crate::token) fn of(pairs: &[(&str, &str)]) -> Arc<dyn Environment> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Arc::new(Self(pairs.collect()))
    }
}

impl Environment for Variables {
    fn variable(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }
}
