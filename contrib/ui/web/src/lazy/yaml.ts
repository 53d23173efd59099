export { isNode, LineCounter, parseAllDocuments, stringify } from "yaml";
