// A strict client and resource server that we did not write, npm oauth4webapi, in front of our authorization server.
//
//   node oauth4webapi.mjs ISSUER RESOURCE      prints what it found as JSON; whatever it does not accept is an error
import * as oauth from 'oauth4webapi';

const [issuer, resource] = process.argv.slice(2);
const insecure = { [oauth.allowInsecureRequests]: true };
const expected = new URL(issuer);

const discovered = await oauth.discoveryRequest(expected, { algorithm: 'oauth2', ...insecure });
const as = await oauth.processDiscoveryResponse(expected, discovered);

async function grant(client_id) {
  const client = { client_id };
  const parameters = new URLSearchParams({ scope: 'read', resource });
  const response = await oauth.clientCredentialsGrantRequest(as, client, oauth.ClientSecretBasic('a-secret-that-opens-nothing-real'), parameters, insecure);
  return oauth.processClientCredentialsResponse(as, client, response);
}

async function introspect(token, client, options = {}) {
  const response = await oauth.introspectionRequest(as, client, oauth.ClientSecretBasic('a-secret-that-opens-nothing-real'), token, { ...insecure, ...options });
  const result = await oauth.processIntrospectionResponse(as, client, response);
  if (options.requestJwtResponse) await oauth.validateApplicationLevelSignature(as, response, insecure);
  return result;
}

const token = await grant('orders');
const request = new Request(resource, { headers: { authorization: `Bearer ${token.access_token}` } });
const claims = await oauth.validateJwtAccessToken(as, request, resource, insecure);

const opaque = await grant('opaque');
const before = await introspect(opaque.access_token, { client_id: 'api' });
const revoked = await oauth.revocationRequest(as, { client_id: 'opaque' }, oauth.ClientSecretBasic('a-secret-that-opens-nothing-real'), opaque.access_token, insecure);
await oauth.processRevocationResponse(revoked);

console.log(JSON.stringify({
  scope: token.scope,
  claims,
  plain: await introspect(token.access_token, { client_id: 'api' }),
  signed: await introspect(token.access_token, { client_id: 'api', introspection_signed_response_alg: 'ES256' }, { requestJwtResponse: true }),
  before,
  after: await introspect(opaque.access_token, { client_id: 'api' }),
}));
