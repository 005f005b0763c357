// Reads catalog files as Backstage's catalog does, with its own model: the paths that match a pattern, the Locations that they hold,
// and what those name. In: JSON with `url` (of the repository's root at a forge), `pattern` and `files` by path. Out: JSON with `entities` (references) and `errors`.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(pathToFileURL(`${process.argv[2]}/`));
const model = require('@backstage/catalog-model');
const { ScmIntegrations } = require('@backstage/integration');
const { ConfigReader } = require('@backstage/config');
const { minimatch } = require('minimatch');
const { parseAllDocuments } = require('yaml');

const { url, pattern, files } = JSON.parse(readFileSync(0, 'utf8'));
const host = new URL(url).host;
const scm = ScmIntegrations.fromConfig(new ConfigReader({ integrations: { github: [{ host }] } }));
const policy = model.EntityPolicies.allOf([
  new model.SchemaValidEntityPolicy(),
  new model.DefaultNamespaceEntityPolicy(),
  new model.NoForeignRootFieldsEntityPolicy(),
  new model.FieldFormatEntityPolicy(),
]);
const kinds = Object.entries(model)
  .filter(([name]) => name.endsWith('EntityV1alpha1Validator'))
  .map(([, validator]) => validator);
const entities = [];
const errors = [];
const seen = new Set();

async function read(path) {
  if (seen.has(path)) return;
  seen.add(path);
  if (!(path in files)) {
    errors.push(`${path}: not found`);
    return;
  }
  for (const document of parseAllDocuments(files[path])) {
    try {
      const entity = await policy.enforce(document.toJSON());
      const known = [];
      for (const kind of kinds) known.push(await kind.check(entity));
      if (!known.includes(true)) throw new Error(`no kind of the catalog: ${entity.apiVersion} ${entity.kind}`);
      entities.push(model.stringifyEntityRef(entity));
      for (const target of entity.kind === 'Location' ? (entity.spec.targets ?? [entity.spec.target]) : []) {
        const resolved = scm.resolveUrl({ url: target, base: url + path });
        await read(decodeURI(resolved.slice(url.length)));
      }
    } catch (error) {
      errors.push(`${path}: ${error.message}`);
    }
  }
}

for (const path of Object.keys(files).sort()) if (minimatch(path, pattern)) await read(path);
console.log(JSON.stringify({ entities: entities.sort(), errors: errors.sort() }));
