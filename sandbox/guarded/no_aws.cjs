// Programs on Node.js in the sandbox's environment do not get through to AWS, whichever of its variables
// their SDK reads: names of AWS's services are not looked up.
"use strict";
const dns = require("node:dns");

function refused(host) {
  if (!/(^|\.)(amazonaws\.com(\.cn)?|api\.aws|on\.aws)\.?$/i.test(String(host))) return null;
  const error = new Error(`${host} is AWS, and the sandbox's environment keeps programs from it`);
  return Object.assign(error, { code: "ENOTFOUND", hostname: host, syscall: "getaddrinfo" });
}

const lookup = dns.lookup;
dns.lookup = function (host, ...rest) {
  const error = refused(host);
  return error ? process.nextTick(rest.at(-1), error) : lookup.call(dns, host, ...rest);
};
const promised = dns.promises.lookup;
dns.promises.lookup = async function (host, ...rest) {
  const error = refused(host);
  if (error) throw error;
  return promised.call(dns.promises, host, ...rest);
};
