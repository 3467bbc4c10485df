// A real authorization server, npm oidc-provider, set up to issue JWT access tokens (RFC 9068).
//
//   node oidc_provider.mjs [PORT]      prints "ready http://127.0.0.1:PORT"; ends when its standard input closes
//
// The client "service" gets its tokens by client_credentials, and the resource (RFC 8707) it asks for decides which:
//   https://api.example/<ALG>      signed with that algorithm, audience https://api.example
//   https://api.example/short      ends after one second
//   https://api.example/list       its audience is a list in which ours is the second
//   https://api.example/encrypted  a JWT inside a JWE
//   https://api.example/shared     signed with HS256 and a shared secret
//   https://api.example/opaque     not a JWT at all
//   https://other.example/opaque   not a JWT, and meant for somebody else
//   https://other.example          meant for somebody else
// Resource servers may introspect: "rs" by client_secret_basic, "rs-post" by client_secret_post, "rs-key" by private_key_jwt,
// "rs-signed" gets signed answers, "rs-encrypted" signed and encrypted ones; their public keys come in the variable RS_JWKS.
// Assertions by the first of those keys, with "service" as their issuer, are exchanged for tokens of "alice" (RFC 7523).
// Beside the standard endpoints:
//   POST /id-token                 an ID token for the client, signed with the same keys
//   POST /rotate?keep=1|0          new signing keys; the old ones stay published, or do not
//   POST /outage?on=1|0            metadata, keys and introspection answer 503, or no longer
//   GET  /hits                     how often each path was asked for
import http from 'node:http';
import * as jose from 'jose';
import { Provider, errors } from 'oidc-provider';

const API = 'https://api.example';
const OTHER = 'https://other.example';
const ALGORITHMS = ['RS256', 'PS256', 'ES256', 'EdDSA', 'Ed25519'];
const SCOPES = 'orders:read orders:write';

const jwt = (more = {}) => ({ scope: SCOPES, audience: API, accessTokenFormat: 'jwt', accessTokenTTL: 300, jwt: { sign: { alg: 'RS256' } }, ...more });

async function resourceServers() {
  const { publicKey } = await jose.generateKeyPair('ECDH-ES');
  return {
    ...Object.fromEntries(ALGORITHMS.map((alg) => [`${API}/${alg}`, jwt({ jwt: { sign: { alg } } })])),
    [`${API}/short`]: jwt({ accessTokenTTL: 1 }),
    [`${API}/list`]: jwt({ audience: `${API}/list` }),
    [`${API}/encrypted`]: jwt({ jwt: { sign: { alg: 'RS256' }, encrypt: { alg: 'ECDH-ES', enc: 'A256GCM', key: publicKey } } }),
    [`${API}/shared`]: jwt({ jwt: { sign: { alg: 'HS256', key: Buffer.alloc(32, 7) } } }),
    [`${API}/opaque`]: jwt({ accessTokenFormat: 'opaque', jwt: undefined }),
    [OTHER]: jwt({ audience: OTHER }),
    [`${OTHER}/opaque`]: jwt({ audience: OTHER, accessTokenFormat: 'opaque', jwt: undefined }),
  };
}

let generation = 0;
async function newKeys() {
  generation += 1;
  return Promise.all(ALGORITHMS.map(async (alg) => {
    const { privateKey } = await jose.generateKeyPair(alg, { extractable: true });
    return { ...(await jose.exportJWK(privateKey)), kid: `${alg}-${generation}`, alg, use: 'sig' };
  }));
}

const client_secret = 'a-secret-that-opens-nothing-real';
const asker = { grant_types: [], redirect_uris: [], response_types: [] };
const jwks = JSON.parse(process.env.RS_JWKS ?? '{"keys":[]}');
const clients = [
  { client_id: 'service', client_secret, ...asker, grant_types: ['client_credentials', 'urn:ietf:params:oauth:grant-type:jwt-bearer'] },
  { client_id: 'rs', client_secret, ...asker },
  { client_id: 'rs-post', client_secret, token_endpoint_auth_method: 'client_secret_post', ...asker },
];
if (jwks.keys.length) {
  clients.push(
    { client_id: 'rs-key', token_endpoint_auth_method: 'private_key_jwt', jwks, ...asker },
    { client_id: 'rs-signed', client_secret, introspection_signed_response_alg: 'ES256', ...asker },
    { client_id: 'rs-encrypted', client_secret, jwks, introspection_signed_response_alg: 'ES256', introspection_encrypted_response_alg: 'ECDH-ES', introspection_encrypted_response_enc: 'A256GCM', ...asker },
  );
}

function makeProvider(issuer, keys, resources) {
  const lifetime = (ctx, token) => token.resourceServer?.accessTokenTTL ?? 300;
  const provider = new Provider(issuer, {
    clients,
    jwks: { keys },
    scopes: SCOPES.split(' '),
    cookies: { keys: ['signs cookies nobody gets'] },
    ttl: { ClientCredentials: lifetime, AccessToken: lifetime, IdToken: 300 },
    enabledJWA: {
      idTokenSigningAlgValues: ALGORITHMS,
      introspectionSigningAlgValues: ['RS256', 'ES256'],
      introspectionEncryptionAlgValues: ['ECDH-ES'],
      introspectionEncryptionEncValues: ['A256GCM'],
    },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    extraTokenClaims: () => ({ roles: ['clerk'], groups: ['ops'], entitlements: ['refunds'] }),
    formats: {
      customizers: {
        jwt: (ctx, token, parts) => {
          if (parts.payload.aud === `${API}/list`) parts.payload.aud = [OTHER, API];
        },
      },
    },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      encryption: { enabled: true },
      introspection: { enabled: true, allowedPolicy: (ctx, client) => client.clientId.startsWith('rs') },
      jwtIntrospection: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => `${API}/RS256`,
        getResourceServerInfo: (ctx, indicator) => {
          if (!resources[indicator]) throw new errors.InvalidTarget();
          return resources[indicator];
        },
      },
    },
  });
  registerAssertionGrant(provider, issuer, resources);
  provider.on('server_error', (ctx, error) => console.error(error));
  return provider;
}

const BEARER = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const trusted = jose.createLocalJWKSet({ keys: jwks.keys.slice(0, 1) });

function registerAssertionGrant(provider, issuer, resources) {
  provider.registerGrantType(BEARER, async (ctx) => {
    const { assertion, scope, resource } = ctx.oidc.params;
    const expected = { issuer: 'service', subject: 'alice', audience: issuer, requiredClaims: ['exp', 'jti'] };
    await jose.jwtVerify(assertion, trusted, expected).catch(() => { throw new errors.InvalidGrant('assertion'); });
    if (!resources[resource]) throw new errors.InvalidTarget();
    const token = new provider.AccessToken({ accountId: 'alice', client: ctx.oidc.client, gty: 'jwt-bearer' });
    token.resourceServer = new provider.ResourceServer(resource, resources[resource]);
    token.scope = scope;
    ctx.body = { access_token: await token.save(), expires_in: token.expiration, token_type: token.tokenType, scope };
  }, ['assertion', 'scope', 'resource']);
}

async function idToken(provider) {
  const client = await provider.Client.find('service');
  const token = new provider.IdToken({ sub: 'alice' }, { client });
  token.scope = 'openid';
  token.set('nonce', 'n-0S6_WzA2Mj');
  return token.issue({ use: 'idtoken' });
}

function answer(response, body) {
  response.writeHead(200, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

const server = http.createServer();
server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', async () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const resources = await resourceServers();
  let keys = await newKeys();
  let provider = makeProvider(issuer, keys, resources);

  const hits = {};
  let outage = false;
  server.on('request', async (request, response) => {
    const { pathname, searchParams } = new URL(request.url, issuer);
    hits[pathname] = (hits[pathname] ?? 0) + 1;
    if (pathname === '/hits') {
      answer(response, hits);
    } else if (pathname === '/outage') {
      outage = searchParams.get('on') === '1';
      answer(response, { outage });
    } else if (outage && (pathname.startsWith('/.well-known/') || pathname === '/jwks' || pathname === '/token/introspection')) {
      response.writeHead(503, { 'retry-after': '1' });
      response.end();
    } else if (pathname === '/id-token') {
      answer(response, { id_token: await idToken(provider) });
    } else if (pathname === '/rotate') {
      keys = [...await newKeys(), ...(searchParams.get('keep') === '1' ? keys : [])];
      provider = makeProvider(issuer, keys, resources);
      answer(response, { published: keys.map((key) => key.kid) });
    } else {
      provider.callback()(request, response);
    }
  });
  console.log(`ready ${issuer}`);
});

process.stdin.resume();
process.stdin.on('close', () => process.exit(0));
process.stdin.on('end', () => process.exit(0));
